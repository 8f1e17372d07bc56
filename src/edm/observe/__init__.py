"""What an operator can see: ledger, metrics, logs, HTTP endpoints.

Counts come in from every layer above, text for people and monitoring goes out. A new metric is declared
by the owner of the value, through :mod:`edm.observe.metrics`. A new fate is taken into the balance
(:mod:`edm.observe.ledger`) by itself. No client address passes (:mod:`edm.observe.privacy`).
"""
