"""Kernels: the decorator that compiles them, their cache, and the columns that they work on.

Functions over arrays come in, compiled functions that hold no interpreter lock go out. A new field of a
batch, or a new fate, is declared in :mod:`edm.kernel.columns`; how kernels are compiled is in
:mod:`edm.kernel.jit`. Everything above may import it.
"""
