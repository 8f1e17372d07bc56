"""Start-up: every kernel is warm before the first frame comes, and the configuration becomes input, sinks and servers.

A configuration comes in; the listener, the sinks and the web servers go out for the daemon to start, and kernels
that have worked on made-up frames. Another output gets its line in :mod:`edm.startup.sinks`. A kernel that the sample
frames do not reach gets a frame in :mod:`edm.startup.sample`. The engine is below, the daemon is above.
"""
