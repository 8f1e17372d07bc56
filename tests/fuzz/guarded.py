"""Arrays that check every index, for kernels that run as plain Python.

NumPy takes a negative index from the end, silently, and so do compiled kernels with Numba's bounds check on. And what
lies within the block but behind an input is no index error at all. A `Guarded` array refuses both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.kernel.jit import JIT_DISABLED


class OutOfBoundsError(Exception):
    """A kernel touched what it must not touch."""


class Guarded:
    """An array in which an index counts from the front, lies within the bounds, and below ``initialised``.

    Parameters
    ----------
    array : ndarray
    initialised : int, optional
        First element that may be read only after it was written.
    """

    __slots__ = ("_initialised", "_written", "array")

    def __init__(self, array: np.ndarray, initialised: int | None = None) -> None:
        self.array = array
        self._initialised = len(array) if initialised is None else initialised
        self._written: set[int] = set()

    def __len__(self) -> int:
        return len(self.array)

    @property
    def size(self) -> int:
        return self.array.size

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def _check(self, index: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        for part, size in zip(parts, self.array.shape, strict=False):
            if isinstance(part, slice):
                begin, end, step = part.start or 0, size if part.stop is None else part.stop, part.step
                if step not in (None, 1) or not 0 <= begin <= end <= size:
                    raise OutOfBoundsError(f"slice {part} of {size} elements")
            elif not 0 <= int(part) < size:
                raise OutOfBoundsError(f"index {part} of {size} elements")

    def __getitem__(self, index: Any) -> Any:
        self._check(index)
        if self._initialised < len(self.array) and not isinstance(index, tuple | slice):
            at = int(index)
            if at >= self._initialised and at not in self._written:
                raise OutOfBoundsError(f"element {at} read before it was written")
        found = self.array[index]
        return Guarded(found) if isinstance(found, np.ndarray) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        self._check(index)
        self.array[index] = value
        if self._initialised < len(self.array) and not isinstance(index, tuple | slice):
            self._written.add(int(index))


def guard(array: np.ndarray, initialised: int | None = None) -> Any:
    """Return the array, guarded if kernels run as plain Python; a compiled kernel takes only arrays."""
    return Guarded(array, initialised) if JIT_DISABLED else array


def unguarded(array: Any) -> np.ndarray:
    """Return the array itself."""
    return array.array if isinstance(array, Guarded) else array


__all__ = ["Guarded", "OutOfBoundsError", "guard", "unguarded"]
