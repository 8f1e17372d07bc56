"""Frame Streams: handshake, control frames, and locating data frames, without any I/O.

Bytes of a connection or a file come in; the answers of the handshake and the offset and length of each frame
go out. The protocol's rules are in :mod:`~edm.stages.framestream.protocol`, the kernel is in
:mod:`~edm.stages.framestream.locate`.
"""
