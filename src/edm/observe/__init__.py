"""What an operator can see: ledger, metrics, logs, HTTP endpoints.

Counts come in from every layer above; text for people and monitoring goes out. The owner of a value declares
its metric, through :mod:`edm.observe.metrics`. A new fate is taken into the balance (:mod:`edm.observe.ledger`)
by itself. :mod:`edm.observe.privacy` hides client addresses.
"""
