"""TAPIR Core: what is sent there, and the keys with which it is sent.

Events and finished histogram files come in; signed MQTT messages and signed uploads go out. Besides
:mod:`edm.observe` and :mod:`edm.cli` this is the only package that may use network libraries. Another output
stands beside ``mqtt`` and ``upload`` as a package of its own.
"""
