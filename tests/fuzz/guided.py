"""The coverage-guided fuzzer: ``python -m fuzz.guided TARGET [arguments of libFuzzer]`` with PYTHONPATH=src:tests.

It needs atheris (requirements-fuzz.txt). The kernels run as plain Python, instrumented, so that their branches guide
the search, on arrays that refuse every index out of bounds, negative ones too. Each input is compared with the oracle.
A failing input is written to the current folder as ``crash-...``; ``python -m fuzz.run --target TARGET --replay FILE``
tries it again. What reached new branches stays in the folder given with ``--corpus``, for later runs of both fuzzers.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

# What is never instrumented: the fuzzer and the oracles, whose branches are no part of the search.
_INSTRUMENTED = [
    "edm.stages",
    "edm.config",
    "edm.cli",
    "edm.tapir",
    "edm.input",
    "edm.pipeline",
    "edm.kernel.columns",
]
_STARTING_INPUTS = 300
_HANG_SECONDS = 30


def _corpus_folder(arguments: list[str]) -> Path:
    if "--corpus" in arguments:
        at = arguments.index("--corpus")
        folder = Path(arguments[at + 1])
        del arguments[at : at + 2]
        return folder
    return Path(tempfile.mkdtemp(prefix="edm-fuzz-corpus-"))


def _fill(folder: Path, inputs: list[bytes], longest: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        if len(data) <= longest:
            (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def main(arguments: list[str]) -> int:
    """Fuzz until libFuzzer's bounds (``-runs=N``, ``-max_total_time=SECONDS``) are reached; never returns then."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: .venv/bin/pip install -r requirements-fuzz.txt", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from fuzz.targets import TARGETS
    if not arguments or arguments[0] not in TARGETS:
        print(f"which target? {' '.join(sorted(TARGETS))}", file=sys.stderr)
        return 2
    target = TARGETS[arguments[0]]()
    folder = _corpus_folder(arguments) / target.name
    inputs = target.corpus()
    step = max(1, len(inputs) // _STARTING_INPUTS)
    _fill(folder, [*inputs[::step], *target.seeds()], target.longest)

    def one_input(data: bytes) -> None:
        target.check([data])

    def mutated(data: bytes, longest: int, seed: int) -> bytes:
        changed = bytes(atheris.Mutate(data, longest))
        return target.mended(changed) if seed % 4 else changed

    limits = [f"-max_len={target.longest}", f"-timeout={_HANG_SECONDS}", "-rss_limit_mb=3000"]
    atheris.Setup([sys.argv[0], *limits, *arguments[1:], str(folder)], one_input, custom_mutator=mutated)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
