"""Input: the listener, one reader for each connection, and the blocks they fill.

Connections of DNS servers come in, blocks of located frames go out to the workers through one
:class:`~edm.input.blocks.Intake`. What fills blocks is a :class:`~edm.input.source.Source`. Another one is a module
here, which :func:`edm.startup.listening.open_source` opens; another kind of socket is in :mod:`edm.input.listener`.
"""
