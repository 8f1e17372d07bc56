"""The domain table: from a name in wire form to the entry that it matches, and back.

A DAWG comes in and is built into a hash table, plain for small lists and packed for large ones;
``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` go out for each row of a batch. Matching is in
:mod:`~edm.stages.domains.table.lookup`, the hash in :mod:`~edm.stages.domains.table.hashing`.
"""
