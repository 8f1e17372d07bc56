"""What an operator can see: ledger, metrics, logs, HTTP endpoints.

Counts come in from every layer above; text for people and monitoring goes out. A new metric is declared in
:mod:`edm.observe.metrics`; a fate gets its place in the balance in :mod:`edm.observe.ledger`.
:mod:`edm.observe.privacy` hides client addresses.
"""
