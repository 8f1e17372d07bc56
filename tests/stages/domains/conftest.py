"""Fixtures of the tests of the domains stage."""

from support.reading import nobody_is_writing

__all__ = ["nobody_is_writing"]
