"""Pseudonyms: the values that replace addresses in session rows.

Both addresses of each row come in, their pseudonyms go out in the columns ``SOURCE_*`` and ``DEST_*``. The
cipher is in :mod:`~edm.stages.pseudonyms.cryptopan`; another way to make pseudonyms stands beside it. True
addresses live only in the cache of a worker.
"""
