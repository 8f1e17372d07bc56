"""Events about new names: the payloads of a batch, one after another in one buffer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edm.kernel.columns import I64Array, U8Array, U32Array, U64Array
from edm.stages.new_qname.payloads import EVENT_MAX, write_events
from edm.stages.new_qname.seen.unsaved import Unsaved

_USUAL_BYTES = 192
_LINE_END = 10


@dataclass(frozen=True, slots=True, eq=False)
class EventBlock:
    """The events of one batch.

    ``len()`` is the number of events; iterating gives the payload of each as ``bytes``.

    Attributes
    ----------
    payloads : bytes
        JSON payloads without separators between them.
    offsets : int64[len + 1]
        Event ``i`` is ``payloads[offsets[i]:offsets[i + 1]]``.
    dropped : int
        Names for which no event could be written and that were left out by :meth:`select`.
    unsaved : Unsaved, optional
        The names of the batch. The taker of the events saves them when the events are safe.
    ended : tuple of int, optional
        Of a block without events that marks the end of an interval: its start and stop, microseconds since 1970.
    """

    payloads: bytes
    offsets: I64Array
    dropped: int = 0
    unsaved: Unsaved | None = None
    ended: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[bytes]:
        begin = 0
        for end in self.offsets[1:].tolist():
            yield self.payloads[begin:end]
            begin = end

    def lines(self) -> bytes:
        """Return the payloads with a line end behind each."""
        data = np.frombuffer(self.payloads, np.uint8)
        return np.insert(data, self.offsets[1:], _LINE_END).tobytes()

    def head(self, count: int) -> EventBlock:
        """Return a block of the first ``count`` events (all of them if there are fewer)."""
        if count >= len(self):
            return self
        payloads = self.payloads[: int(self.offsets[count])]
        return replace(self, payloads=payloads, offsets=self.offsets[: count + 1].copy())

    def save_names(self, *, at_once: bool = True) -> None:
        """Save the names of the batch, since its events are stored safely or given up."""
        if self.unsaved is not None:
            self.unsaved.save(at_once=at_once)

    def select(self, wanted: npt.NDArray[np.bool_]) -> EventBlock:
        """Return a block of the events ``i`` with ``wanted[i]``; empty ones are dropped and counted."""
        sizes = np.diff(self.offsets)
        kept = wanted & (sizes > 0)
        dropped = int(np.count_nonzero(wanted)) - int(np.count_nonzero(kept))
        if kept.all():
            return self
        data = np.frombuffer(self.payloads, np.uint8)[np.repeat(kept, sizes)]
        offsets: I64Array = np.zeros(np.count_nonzero(kept) + 1, np.int64)
        np.cumsum(sizes[kept], out=offsets[1:])
        return EventBlock(data.tobytes(), offsets, dropped)


def end_of_interval(start_us: int, stop_us: int) -> EventBlock:
    """Return the block without events that marks the end of an interval."""
    return EventBlock(b"", np.zeros(1, np.int64), ended=(start_us, stop_us))


def build_events(buf: U8Array, u32: U32Array, u64: U64Array, rows: I64Array, count: int) -> EventBlock:
    """Write the events of the rows ``rows[:count]``, in that order.

    An event that cannot be written (response time beyond the year 9999) is empty until
    :meth:`EventBlock.select` drops it.

    Parameters
    ----------
    buf : uint8[:]
        The block's buffer.
    u32, u64 : uint32[N_U32, stride], uint64[N_U64, stride]
        Columns of the batch.
    rows : int64[>= count]
        Rows whose names are or may be new.
    count : int
        How many.
    """
    offsets: I64Array = np.zeros(count + 1, np.int64)
    written: I64Array = np.zeros(1, np.int64)
    out: U8Array = np.empty(EVENT_MAX + count * _USUAL_BYTES, np.uint8)
    done = write_events(buf, u32, u64, rows, 0, count, out, offsets, written)
    while done < count:
        larger: U8Array = np.empty(2 * out.size, np.uint8)
        used = int(offsets[written[0]])
        larger[:used] = out[:used]
        out = larger
        done = write_events(buf, u32, u64, rows, done, count, out, offsets, written)
    events = int(written[0])
    return EventBlock(out[: int(offsets[events])].tobytes(), offsets[: events + 1])


__all__ = ["EventBlock", "build_events", "end_of_interval"]
