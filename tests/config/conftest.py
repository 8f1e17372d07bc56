"""Fixtures of the tests of the configuration."""

from support.reading import nobody_is_writing

__all__ = ["nobody_is_writing"]
