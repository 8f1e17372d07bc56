"""Upload: finished histogram files, signed, over HTTPS.

Files of the outbox come in, POST requests go out, and the files move to ``sent`` or ``refused``. Change what
a request says in :mod:`~edm.tapir.upload.aggregate`, what an answer means in :mod:`~edm.tapir.upload.upload`,
and the waits in :mod:`~edm.tapir.upload.retries`.
"""
