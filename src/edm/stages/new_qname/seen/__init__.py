"""Seen names: the store that remembers every question name that was reported.

Names come in as keyed fingerprints; "seen" or "new" goes out. The tables in memory are in
:mod:`~edm.stages.new_qname.seen.generations`, the files are in :mod:`~edm.stages.new_qname.seen.log`, and the
store that joins them is in :mod:`~edm.stages.new_qname.seen.store`.
"""
