"""``edm version``: print the versions of the program, of Python and of the libraries."""

from __future__ import annotations

import platform
from importlib import metadata

from edm import __version__
from edm.cli.arguments import Arguments, Spec

SPEC = Spec(config=False)
_LIBRARIES = ("numba", "numpy", "pyarrow", "cryptography")


def run(args: Arguments) -> int:
    """Print the versions, one per line."""
    print(f"{args.program} {__version__}")
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _LIBRARIES:
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} is not installed")
    return 0
