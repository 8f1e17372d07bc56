"""What is counted for each well-known name in an interval, and how it becomes rows."""
