"""Ignored clients: the prefix file and the check of a batch's client addresses against it."""

from edm.stages.clients.prefixes import ClientPrefixes, parse_prefix_file

__all__ = ["ClientPrefixes", "parse_prefix_file"]
