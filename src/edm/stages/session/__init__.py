"""Session rows: one for each answer about a name that is not well known.

Rows with the fate ``session`` come in, Arrow record batches go out. The columns are declared in
:mod:`~edm.stages.session.columns` and filled in :mod:`~edm.stages.session.rows` and
:mod:`~edm.stages.session.row_kernels`; no true address gets here.
"""
