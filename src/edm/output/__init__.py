"""Output: Parquet files on this machine, the threads that write them, and the disk budget.

Retired intervals and record batches come in, finished files go out. Where files lie and how they are named is
in :mod:`edm.output.paths`; what is removed when the disk is full is in :mod:`edm.output.budget`. Nothing here
uses the network.
"""
