"""Start-up: every kernel is compiled or loaded before the first frame comes.

Nothing comes in but made-up frames, which are sent through the real engine. Warm kernels go out. A kernel
that the sample frames do not reach gets a frame in :mod:`edm.startup.warmup`.
"""
