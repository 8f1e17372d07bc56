"""Start-up: loads every kernel before the first frame comes, and makes input, sinks and servers for the daemon.

A configuration comes in. The listener, the sinks and the web servers go out, and kernels that have run once on made-up
frames. A new output gets a line in :mod:`edm.startup.sinks`; a new section or check of the status page is in
:mod:`edm.startup.sections` and :mod:`edm.startup.status_checks`. A kernel that the sample frames do not reach gets a
frame in :mod:`edm.startup.sample`. The engine is in the layer below, the daemon in the layer above.
"""
