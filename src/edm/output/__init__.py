"""Output: Parquet files, the outbox, and the writers that fill them beside the workers."""
