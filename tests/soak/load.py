"""A steady load: one thread sends a made-up stream over several connections at a fixed pace, and reconnects."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
from benchmarks.streams import PASS_CHARS, Parameters, Stream, generate, renew

from edm.captures.replay import Sender
from edm.stages.framestream.locate import locate_frames

TICK = 0.05
LIFETIME = (2.0, 20.0)
PASSES = 32**PASS_CHARS
"""So often can a stream be sent before its never-seen names come again."""

Connect = Callable[[], socket.socket]


class SteadyLoad:
    """Sends ``rate`` frames a second until it is told to stop.

    All but one connection take turns with a tick's share in one write; the last one sends single frames. After a
    few seconds a connection ends and another one takes its place: with STOP, without, or in the middle of a
    frame (which then counts as not sent).

    Parameters
    ----------
    connect : callable
        Opens a socket to the daemon.
    rate : int
        Frames a second, over all connections.
    connections : int
    novelty : float
        Share of the responses whose name has never been seen.
    seed : int

    Attributes
    ----------
    sent : int
        Whole frames sent.
    reconnects : int
        Connections that ended before the last.
    """

    def __init__(
        self, connect: Connect, *, rate: int, connections: int = 5, novelty: float = 0.005, seed: int = 1
    ) -> None:
        self.sent = self.reconnects = 0
        self.error: BaseException | None = None
        self._connect = connect
        self._rate = rate
        self._stream = generate(Parameters(frames=4 * rate, novelty_share=novelty, queries=True))
        self._ends = _frame_ends(self._stream)
        self._view = self._stream.data.data
        self._next = self._pass = 0
        self._chance = random.Random(seed)
        self._slots: list[_Connection | None] = [None] * connections
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> int:
        """End all connections with STOP; return how many frames were sent. Raises what ended the thread."""
        self._stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self.sent

    def _run(self) -> None:
        try:
            began = time.monotonic()
            while not self._stopping.wait(TICK):
                self._send(int((time.monotonic() - began) * self._rate) - self.sent)
            for connection in self._slots:
                if connection is not None:
                    connection.sender.finish()
        except BaseException as error:
            self.error = error
        finally:
            for connection in self._slots:
                if connection is not None:
                    connection.sock.close()

    def _send(self, due: int) -> None:
        heavy = len(self._slots) - 1
        for slot in range(heavy):
            connection = self._at(slot)
            for begin, end in self._take(due // heavy):
                connection.sender.send(self._view[begin:end])
        light = self._at(heavy)
        for _ in range(5):
            for begin, end in self._take(1):
                light.sender.send(self._view[begin:end])

    def _at(self, slot: int) -> _Connection:
        connection = self._slots[slot]
        if connection is not None and time.monotonic() > connection.until:
            self._end(connection)
            connection = None
        if connection is None:
            sock = self._connect()
            connection = _Connection(sock, time.monotonic() + self._chance.uniform(*LIFETIME))
            self._slots[slot] = connection
        return connection

    def _end(self, connection: _Connection) -> None:
        self.reconnects += 1
        manner = self._chance.randrange(3)
        if manner == 0:
            connection.sender.finish()
        elif manner == 1:
            begin, end = self._frame(self._next)
            connection.sender.send(self._view[begin : self._chance.randrange(begin + 1, end)])
        connection.sock.close()

    def _frame(self, number: int) -> tuple[int, int]:
        return (int(self._ends[number - 1]) if number else 0), int(self._ends[number])

    def _take(self, frames: int) -> list[tuple[int, int]]:
        """Return where the next so many frames stand; they count as sent."""
        parts = []
        while frames > 0:
            count = min(frames, len(self._ends) - self._next)
            parts.append((self._frame(self._next)[0], self._frame(self._next + count - 1)[1]))
            self._next += count
            self.sent += count
            frames -= count
            if self._next == len(self._ends):
                self._next = 0
                self._pass = (self._pass + 1) % PASSES
                renew(self._stream.data, self._stream.novel, self._pass)
        return parts


class _Connection:
    """A sender and the time at which it is to end."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self.sock = sock
        self.sender = Sender(sock)
        self.until = until


def _frame_ends(stream: Stream) -> np.ndarray:
    offsets, lengths = np.empty(stream.frames, np.uint32), np.empty(stream.frames, np.uint32)
    size = len(stream.data)
    count, _, _ = locate_frames(stream.data, 0, size, size, offsets, lengths)
    assert count == stream.frames
    return offsets.astype(np.int64) + lengths
