"""Sends events and histogram files to TAPIR Core, and holds the keys for that.

Events and finished histogram files come in; signed MQTT messages and signed uploads go out. Besides
:mod:`edm.observe` and :mod:`edm.cli` this is the only package that may use network libraries. Another way to
Core stands beside ``mqtt`` and ``upload``; an output to another user is a package beside this one.
"""
