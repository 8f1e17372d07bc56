"""How the cost of a frame grows with what can be made larger."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.end_to_end import Case, Ground, measure
from benchmarks.results import Result
from benchmarks.streams import Parameters, generate


def batch_rows(ground: Ground, sizes: Sequence[int]) -> list[Result]:
    """Frames in one batch."""
    return measure(
        ground,
        [
            Case(
                f"batches of {size:,} frames",
                "responses",
                program=("-m", "benchmarks.altered", f"BATCH_ROWS={size}", "--"),
            )
            for size in sizes
        ],
        "growth",
    )


def block_size(ground: Ground, sizes: Sequence[int]) -> list[Result]:
    """Bytes of a block; a block never holds less than two frames of the largest size accepted."""
    cases = [
        Case(f"blocks of {size >> 10:,} KiB", "responses", {"block_size": size, "max_frame_size": 16384})
        for size in sizes
    ]
    return measure(ground, cases, "growth")


def workers(ground: Ground, counts: Sequence[int]) -> list[Result]:
    """Workers, with as many connections."""
    cases = [Case(f"{n} workers", "responses", {"minimiser_workers": n}, n) for n in counts]
    return measure(ground, cases, "growth")


def connections(ground: Ground, counts: Sequence[int]) -> list[Result]:
    """Connections at the same time, with one worker."""
    return measure(ground, [Case(f"{n} connections", "responses", {}, n) for n in counts], "growth")


def list_size(ground: Ground, sizes: Sequence[int]) -> list[Result]:
    """Well-known domains, all of them asked for equally often."""
    cases = []
    for size in sizes:
        name = f"list of {size}"
        parameters = Parameters(frames=ground.scale.frames, names=size, skew=0.0)
        ground.add(name, generate(parameters))
        settings = {"well_known_domains_file": ground.list_file(size)}
        cases.append(Case(f"list of {size:,} names, all asked for", name, settings))
    return measure(ground, cases, "growth")


def clients(ground: Ground, counts: Sequence[int]) -> list[Result]:
    """Clients, all of them asking equally often."""
    cases = []
    for count in counts:
        name = f"{count} clients"
        ground.add(name, generate(Parameters(frames=ground.scale.frames, clients=count, skew=0.0)))
        cases.append(Case(f"{count:,} clients", name))
    return measure(ground, cases, "growth")


def frame_size(ground: Ground, paddings: Sequence[int]) -> list[Result]:
    """Bytes of a frame."""
    cases = []
    for padding in paddings:
        name = f"padding {padding}"
        stream = generate(Parameters(frames=ground.scale.frames, padding=padding))
        ground.add(name, stream)
        cases.append(Case(f"frames of {len(stream.data) // stream.frames} bytes", name))
    return measure(ground, cases, "growth")
