"""Reload: what is read again at run time, and what became of each part."""
