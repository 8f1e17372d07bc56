"""What every kernel needs: the decorator, the readers of bytes, and the columns of a batch."""
