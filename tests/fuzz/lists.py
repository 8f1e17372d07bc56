"""The domain lists of the captures; of the large list only a part when kernels run as plain Python."""

from __future__ import annotations

from importlib import resources

from edm.kernel.jit import JIT_DISABLED
from edm.stages.domains import compile_list
from oracles.framestream import CAPTURES

# Names that the inputs ask for, beside the beginning of the list that comes with the program.
_ASKED = (
    "norhubtata.com",
    "*.norhubtata.com",
    "*.zenzenlita10.com",
    "*.com.se",
    "example.com",
    "*.example.net",
)
_SOME = 100


def ignored_names() -> bytes:
    """Return the DAWG file of names that are ignored."""
    return (CAPTURES / "lists" / "ignored-names.dawg").read_bytes()


def well_known() -> bytes:
    """Return the DAWG file of well-known names."""
    if not JIT_DISABLED:
        return (CAPTURES / "lists" / "well-known.dawg").read_bytes()
    starter = (resources.files("edm") / "data" / "starter-domains.txt").read_text("ascii")
    entries = [line for line in starter.splitlines() if line and not line.startswith("#")]
    return compile_list([*entries[:_SOME], *_ASKED])


__all__ = ["ignored_names", "well_known"]
