"""Rotation: the interval that workers fill, and the clock that ends it.

The time comes in; an :class:`~edm.rotation.interval.Interval` goes out, with everything that workers collected in
it. To collect something new, add a field to the interval. To change when it ends, see :mod:`edm.rotation.clock`.
"""
