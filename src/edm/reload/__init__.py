"""Reload: reads configuration, lists and keys again while frames flow, and records the outcome of each part.

A request comes in (SIGHUP, ``edm reload``), the next snapshot and an outcome for each part go out. A new
reloadable part is one entry in :mod:`edm.reload.reload`; :mod:`edm.reload.pace` says how often it may be made
again. This package acts on the engine, so only the daemon and the command line may import it.
"""
