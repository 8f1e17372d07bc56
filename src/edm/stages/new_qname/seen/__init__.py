"""The store of seen names: in memory, on disk, over generations."""
