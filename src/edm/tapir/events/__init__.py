"""Events on their way out: the queue on disk and what feeds it."""
