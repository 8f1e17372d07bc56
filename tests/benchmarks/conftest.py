"""Makes the benchmarks importable: they are a package next to the tests, not an installed one."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)
