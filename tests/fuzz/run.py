"""The mutation fuzzer: ``python -m fuzz.run --target dns --inputs 1000000 --seed 1`` with PYTHONPATH=src:tests.

Every index in the kernels is checked, unless ``--no-bounds-check`` is given. Exit code 1: something was found; the
input is in the folder, and the command to try it again is printed.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
import traceback
from pathlib import Path


def _arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description="Fuzz by mutation.")
    parser.add_argument(
        "--target", action="append", choices=names, help="may come several times; default all"
    )
    parser.add_argument("--inputs", type=int, default=0, help="inputs for each target (0: no bound)")
    parser.add_argument("--seconds", type=float, default=0.0, help="time for each target (0: no bound)")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other inputs")
    parser.add_argument(
        "--corpus", type=Path, help="folder with one folder of inputs for each target, to start from"
    )
    parser.add_argument("--folder", type=Path, help="where failing inputs go (default: a new one)")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="only check these inputs")
    parser.add_argument("--no-bounds-check", action="store_true", help="the kernels as they are in use")
    return parser.parse_args()


def _replay(target: object, files: list[Path]) -> int:
    from fuzz.batches import unpack

    failed = 0
    for path in files:
        try:
            accepted = target.check(unpack(path.read_bytes()))  # type: ignore[attr-defined]
        except Exception:
            traceback.print_exc()
            failed += 1
        else:
            print(f"{path}: agrees, {sum(accepted)} of {len(accepted)} accepted")
    return 1 if failed else 0


def main() -> int:
    """Run the command line; return the exit code."""
    if "--no-bounds-check" not in sys.argv:
        # Before the first import of a kernel.
        os.environ.setdefault("NUMBA_BOUNDSCHECK", "1")
    from fuzz.campaign import Campaign, summary
    from fuzz.targets import TARGETS

    given = _arguments(sorted(TARGETS))
    names = given.target or sorted(TARGETS)
    if given.replay:
        return _replay(TARGETS[names[0]](), given.replay)
    if not given.inputs and not given.seconds:
        given.inputs = 100_000
    folder = given.folder or Path(tempfile.mkdtemp(prefix="edm-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    found = total = 0
    for name in names:
        extra = []
        if given.corpus and (given.corpus / name).is_dir():
            extra = [path.read_bytes() for path in sorted((given.corpus / name).iterdir())]
        result = Campaign(TARGETS[name](), given.seed, folder, extra).run(given.inputs, given.seconds)
        total += result.inputs
        print(summary(name, result), flush=True)
        if result.failure:
            found += 1
            print(f"FOUND by {name} with seed {given.seed}: {result.failure}")
            print(f"  try it again: python -m fuzz.run --target {name} --replay {result.file}", flush=True)
    print(f"{total:,} inputs, {found} targets with a finding" + (f", see {folder}" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
