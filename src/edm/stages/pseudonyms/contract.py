"""The contract of a pseudonymisation: it makes the pseudonyms in session rows from the addresses of a batch.

A :class:`Pseudonyms` is immutable and is part of the snapshot. Each worker makes a :class:`Maker` from it, which holds
the state that one thread changes: a cache, buffers.

Why no pseudonym is ever made with a wrong key: a batch runs under one snapshot, and a maker always belongs to the
:class:`Pseudonyms` that made it. When a worker finds another one in its snapshot, it makes a new maker. So the
pseudonyms remembered for the old key are gone, and nothing has to be cleared.

Columns of a batch (:mod:`edm.kernel.columns`), ``side`` 0 for the client, 1 for the server:

===================  =====================================================================================
reads                ``fate``; ``PRESENT`` with ``HAS_QUERY_ADDRESS << side``; ``QUERY_ADDRESS_OFF + 2 * side``
                     and ``QUERY_ADDRESS_LEN + 2 * side``, the true address in the block
writes               ``SOURCE_LEN + side``: 4, 16, or the odd length found, 0 if there is no address;
                     ``SOURCE_HIGH + 2 * side`` and ``SOURCE_LOW + 2 * side``: the pseudonym as a big-endian number,
                     4 bytes in the low 32 bits of ``LOW``, 0 for an odd length
===================  =====================================================================================

Only these reach session rows; the true address reaches the sketches of histograms and nothing else.

What a reload does: it asks for the key of the new configuration (:func:`edm.snapshot.parts.pseudonyms_key`) and makes
the pseudonyms again (:func:`edm.snapshot.parts.load_pseudonyms`) only if that has changed.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from edm.kernel.columns import Bytes, Fates, U32Columns, U64Columns


class Counts(NamedTuple):
    """What one call of :meth:`Maker.pseudonymise` met.

    ``hits``: addresses of 4 or 16 bytes whose pseudonym was remembered; ``evictions``: addresses forgotten to make
    room; ``odd_lengths``: addresses of any other length.
    """

    hits: int
    evictions: int
    odd_lengths: int


class Maker(Protocol):
    """Makes pseudonyms for one worker. Not for use by two threads at once."""

    def pseudonymise(self, buf: Bytes, u32: U32Columns, u64: U64Columns, fate: Fates, n: int) -> Counts:
        """Write the columns above for all rows ``0 <= i < n`` whose fate is still PENDING.

        Parameters
        ----------
        buf, u32, u64, fate : the block and the columns of a batch, see :mod:`edm.kernel.columns`
        n : rows of the batch
        """


class Pseudonyms(Protocol):
    """A pseudonymisation with its key. Immutable; any number of threads may use it.

    Attributes
    ----------
    fingerprint : hexadecimal digits that differ from key to key and tell nothing of the key
    """

    @property
    def fingerprint(self) -> str:
        """Which key this is."""

    def new_cache(self) -> Maker:
        """Return a maker with nothing remembered, for the use of one worker."""


__all__ = ["Counts", "Maker", "Pseudonyms"]
