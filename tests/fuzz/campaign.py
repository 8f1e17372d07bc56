"""A campaign: batches of inputs for one target, made from a seed, until a number of inputs or a time limit.

Everything follows from the seed, so the same command finds the same fault again. The batch being checked always lies
in a file: should the process die, or hang and be ended by the watchdog, its inputs are there.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz.batches import pack, unpack
from fuzz.target import Target

_KEPT = 4000  # accepted inputs of the campaign itself that it goes on from
_HANG_EXIT = 70


class Watchdog:
    """Ends the process if a batch takes longer than ``seconds``; kernels hold no lock, so it can also end them."""

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._what = what
        self._deadline = float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def feed(self) -> None:
        """A batch begins."""
        self._deadline = time.monotonic() + self._seconds

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() > self._deadline:
                print(f"HANG: a batch takes more than {self._seconds} seconds: {self._what}", file=sys.stderr)
                sys.stderr.flush()
                os._exit(_HANG_EXIT)


@dataclass
class Result:
    """What a campaign did."""

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    failure: str = ""
    file: Path | None = None


@dataclass
class Campaign:
    """Runs one target.

    Attributes
    ----------
    target : Target
    seed : int
    folder : Path
        Where failing inputs, and the batch being checked, are written.
    extra : list of bytes
        More inputs to start from, as those that a guided run has found.
    """

    target: Target
    seed: int
    folder: Path
    extra: list[bytes] = field(default_factory=list)
    hang_seconds: float = 120.0

    def __post_init__(self) -> None:
        self._rng = Random(f"{self.target.name} {self.seed}")
        more = [data for content in self.extra for data in unpack(content)]
        self._corpus = self.target.corpus() + self.target.seeds() + more
        self._fixed = len(self._corpus)

    def inputs(self, count: int) -> list[bytes]:
        """Return the next ``count`` inputs."""
        return [self._one() for _ in range(count)]

    def _one(self) -> bytes:
        rng, target = self._rng, self.target
        choice = rng.random()
        if choice < 0.2:
            return target.generate(rng)
        data = target.generate(rng) if choice < 0.55 else self._pick()
        return target.mutate(rng, data, self._pick())

    def _pick(self) -> bytes:
        return self._corpus[int(self._rng.random() * len(self._corpus))]

    def _learn(self, inputs: Sequence[bytes], accepted: Sequence[bool]) -> None:
        # Damage that was not noticed is a step on the way to stranger inputs.
        good = [data for data, fine in zip(inputs, accepted, strict=True) if fine]
        for data in good[:4]:
            if len(self._corpus) < self._fixed + _KEPT:
                self._corpus.append(data)
            else:
                self._corpus[self._fixed + int(self._rng.random() * _KEPT)] = data

    def batches(self, most: int) -> Iterator[list[bytes]]:
        """Yield batches of at most ``most`` inputs in total, without end if it is 0."""
        done = 0
        while not most or done < most:
            size = min(self.target.batch, most - done) if most else self.target.batch
            yield self.inputs(size)
            done += size

    def run(self, most: int = 0, seconds: float = 0.0, report_seconds: float = 30.0) -> Result:
        """Run until ``most`` inputs or ``seconds`` are reached (0: no such bound), or something is found."""
        result = Result()
        current = self.folder / f"{self.target.name}-{self.seed}.running"
        began = reported = time.monotonic()
        with Watchdog(self.hang_seconds, str(current)) as watchdog:
            for inputs in self.batches(most):
                current.write_bytes(pack(inputs))
                watchdog.feed()
                try:
                    accepted = self.target.check(inputs)
                except Exception as error:
                    result.failure = f"{type(error).__name__}: {error}"
                    result.file = self._keep(inputs)
                    break
                result.inputs += len(inputs)
                result.accepted += sum(accepted)
                self._learn(inputs, accepted)
                now = time.monotonic()
                result.seconds = now - began
                if now - reported >= report_seconds:
                    reported = now
                    print(summary(self.target.name, result), flush=True)
                if seconds and result.seconds >= seconds:
                    break
        current.unlink(missing_ok=True)
        return result

    def _keep(self, inputs: Sequence[bytes]) -> Path:
        """Write down the input that fails alone, else the whole batch."""
        for number, data in enumerate(inputs):
            try:
                self.target.check([data])
            except Exception:
                path = self.folder / f"{self.target.name}-{self.seed}-{number}.input"
                path.write_bytes(self._smaller(data))
                return path
        path = self.folder / f"{self.target.name}-{self.seed}.batch"
        path.write_bytes(pack(inputs))
        return path

    def _smaller(self, data: bytes, tries: int = 2000) -> bytes:
        """Return a shorter input that fails as well: pieces are taken out as long as that is so."""
        step = len(data) // 2
        while step:
            at = 0
            while at < len(data) and tries:
                shorter = data[:at] + data[at + step :]
                tries -= 1
                if self._fails(shorter):
                    data = shorter
                else:
                    at += step
            step //= 2
        return data

    def _fails(self, data: bytes) -> bool:
        try:
            self.target.check([data])
        except Exception:
            return True
        return False


def summary(name: str, result: Result) -> str:
    """Return a line for reading."""
    rate = result.inputs / result.seconds if result.seconds else 0.0
    share = 100 * result.accepted / result.inputs if result.inputs else 0.0
    return (
        f"{name:12} {result.inputs:>12,} inputs, all compared with the oracle, {share:5.1f} % accepted, "
        f"{result.seconds:7.1f} s, {rate:>9,.0f} a second"
    )


__all__ = ["Campaign", "Result", "Watchdog", "summary"]
