"""Ignored clients: their frames are dropped before anything of them is kept.

A prefix file and the client addresses of a batch come in; the fates ``client_ignored`` and
``client_address_invalid`` go out. The file's syntax is in :mod:`~edm.stages.clients.prefixes`, the search is
in :mod:`~edm.stages.clients.matching`.
"""

from edm.stages.clients.prefixes import ClientPrefixes, parse_prefix_file

__all__ = ["ClientPrefixes", "parse_prefix_file"]
