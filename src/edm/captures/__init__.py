"""Capture files: reading, minimising, replaying and inspecting them.

Files come in (plain, gzip, Zstandard); frames for the engine, bytes for a socket, or a report go out. A new
compression is a decoder in :mod:`edm.captures.reading`. Only the daemon and the command line may import this package.
"""
