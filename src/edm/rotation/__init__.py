"""Rotation: the intervals, the clock that ends them, and the hand-over to the writers."""
