"""Benchmarks: what a frame costs, stage by stage and end to end. Run with ``python -m benchmarks``."""
