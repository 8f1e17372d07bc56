"""The stages of the pipeline: one package each, and none imports another.

The columns of a batch come in, more columns and fates go out; :mod:`edm.pipeline` calls them in order. Kernel
modules hold pure functions over arrays, the modules beside them own the state. All stages may use
:mod:`edm.stages.names`.
"""
