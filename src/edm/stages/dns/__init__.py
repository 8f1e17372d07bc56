"""DNS messages: each is checked completely; flags, response code and questions become columns.

The place of each message comes in; columns of header and first question go out, or the fates
``dns_parse_error`` and ``empty_question``. The rule of a record type's RDATA is one row in
:mod:`~edm.stages.dns.rdata`; names and compression pointers are in :mod:`~edm.stages.dns.name`.
"""
