"""Fixtures of the tests of the clients stage."""

from support.reading import nobody_is_writing

__all__ = ["nobody_is_writing"]
