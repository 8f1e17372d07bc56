"""Session rows: pseudonymised addresses, labels and the columns of a session file."""
