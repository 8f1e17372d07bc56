"""The daemon with other constants: ``python -m benchmarks.altered BATCH_ROWS=1024 -- run --config-file ...``.

Only what no kernel has compiled in can be altered so.
"""

from __future__ import annotations

import sys

from edm.kernel import columns


def main() -> int:
    """Alter, then run the daemon's command line with the remaining arguments."""
    end = sys.argv.index("--")
    for alteration in sys.argv[1:end]:
        name, value = alteration.split("=")
        if name != "BATCH_ROWS":
            raise SystemExit(f"{name} cannot be altered")
        columns.BATCH_ROWS = int(value)
        columns.SCRATCH_BYTES = int(value) * columns.NAME_MAX
        columns.Columns.__init__.__defaults__ = (int(value),)
    sys.argv[1:] = sys.argv[end + 1 :]
    from edm.cli.main import main as edm

    return int(edm() or 0)


if __name__ == "__main__":
    raise SystemExit(main())
