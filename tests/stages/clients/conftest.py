"""What all tests here share."""

from support.reading import nobody_is_writing

__all__ = ["nobody_is_writing"]
