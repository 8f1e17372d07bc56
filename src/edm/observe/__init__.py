"""What an operator can see of the program: ledger, metrics, logs, HTTP endpoints."""
