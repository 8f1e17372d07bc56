"""Histograms: counts and client sketches of each well-known name.

Rows with the fate ``well_known`` come in; counters and sketches go out, and as Arrow columns at the end of an
interval. A new counter is in :mod:`~edm.stages.histogram.kernels` and :mod:`~edm.stages.histogram.schema`,
the sketch in :mod:`~edm.stages.histogram.sketches`.
"""
