"""Input: the listener, one reader for each connection, and the blocks they fill.

Connections of DNS servers come in, blocks of located frames go out to the workers through one
:class:`~edm.input.blocks.Intake`. Another kind of socket is in :mod:`edm.input.listener`; another framing
than Frame Streams fills blocks as :mod:`edm.input.reader` does.
"""
