"""Reload: what is read again while frames are flowing, and what became of each part.

A request comes in (SIGHUP, ``edm reload``), the next snapshot and an outcome for each part go out. A new
reloadable part is one entry in :mod:`edm.reload.reload`; how often it may be made again stands in
:mod:`edm.reload.pace`. It acts on the engine, so only the daemon and the command line may import it.
"""
