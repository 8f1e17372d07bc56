"""Files that hold one input, or a batch of them."""

from __future__ import annotations

from collections.abc import Iterable

_MAGIC = b"EDMBATCH"


def pack(inputs: Iterable[bytes]) -> bytes:
    """Return the content of a file that holds a batch."""
    return _MAGIC + b"".join(len(data).to_bytes(4, "big") + data for data in inputs)


def unpack(content: bytes) -> list[bytes]:
    """Return the inputs of a file: those of a batch, or the one that the file is."""
    if not content.startswith(_MAGIC):
        return [content]
    inputs = []
    at = len(_MAGIC)
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        inputs.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return inputs


__all__ = ["pack", "unpack"]
