"""Names never seen before: the store that remembers them, their events, and the queue of these."""
