"""Fixtures of the tests of the outputs to Core."""

from support.reading import nobody_is_writing

__all__ = ["nobody_is_writing"]
