"""dnstap: the protobuf payload of each frame becomes columns.

Located frames come in; addresses, ports, times and the place of the DNS message go out, or the fates
``undecodable``, ``query`` and ``dns_parse_error``. :class:`~edm.stages.dnstap.senders.SenderTally` counts frames by
message type and identity, and gives answers of types that are not wanted the fate ``type_ignored``. A new dnstap
field is read in :mod:`~edm.stages.dnstap.decode` and, if servers write it usually, in :mod:`~edm.stages.dnstap.usual`;
the debug file's form is in :mod:`~edm.stages.dnstap.json_line`.
"""
