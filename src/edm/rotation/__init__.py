"""Rotation: the interval that workers fill, and the clock that ends it.

The time comes in; an :class:`~edm.rotation.interval.Interval` goes out, with everything that was gathered in
it. What is gathered is one more field of the interval; when it ends is in :mod:`edm.rotation.clock`.
"""
