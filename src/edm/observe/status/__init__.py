"""The status of a running daemon: one JSON document, its history, health, and the page that shows them.

Sections come in as functions that return plain values (:mod:`edm.startup.watching` registers them), bytes of JSON and
the page go out over the metrics server. A new section is a line in :mod:`edm.startup.watching` and its form in
``status.schema.json``; a new finding is a line in :mod:`edm.observe.status.findings`.
"""
