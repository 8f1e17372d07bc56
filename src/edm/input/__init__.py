"""Input: the listener, one reader for each connection, and the blocks they fill.

Connections of DNS servers come in, blocks of located frames go out to the workers through one
:class:`~edm.input.blocks.Intake`. A :class:`~edm.input.source.Source` fills the blocks. To add a source, write a
module here and open it in :func:`edm.startup.listening.open_source`; to add a kind of socket, change
:mod:`edm.input.listener`.
"""
