"""Keys: signing keys, client certificates, and what makes them.

Key files come in, objects that sign or that a TLS library takes go out. A new form of key is read in
:mod:`~edm.tapir.keys.jwk`; what ``edm keygen`` writes is in :mod:`~edm.tapir.keys.keygen`.
"""
