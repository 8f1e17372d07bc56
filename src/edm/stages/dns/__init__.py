"""DNS stage: response messages are checked and their header and questions become columns."""
