r"""Domain names between wire form and presentation form.

Presentation form follows the escaping of the Go daemon's library (RFC 1035, 5.1, with more characters
escaped): nine special characters get a backslash, bytes outside 0x20..0x7E become ``\DDD``, everything else
stands for itself, and every name ends in a dot. One wire form has exactly one presentation form, so either
may serve as a key.
"""

from __future__ import annotations

import re

import numpy as np

from edm.kernel.columns import I64, NAME_MAX, Bytes
from edm.kernel.jit import inlined, kernel

SPECIAL = b".\\\"'();@ "

ESCAPE_WIDTH = np.array([2 if b in SPECIAL else 1 if 0x21 <= b <= 0x7E else 4 for b in range(256)], np.uint8)
"""uint8[256]: characters that a label byte takes in presentation form (1, 2 or 4)."""

LOWER = np.array([b + 32 if 0x41 <= b <= 0x5A else b for b in range(256)], np.uint8)
"""uint8[256]: ASCII lower case. Length bytes of labels (0..63) map to themselves."""


@inlined
def put_label(buf: Bytes, off: I64, length: I64, out: Bytes, pos: I64) -> I64:
    """Write the label ``buf[off:off+length]`` in presentation form to ``out`` at ``pos``; return the end.

    ``out`` must have room for ``4 * length`` bytes after ``pos``.
    """
    for k in range(off, off + length):
        b = np.int64(buf[k])
        width = ESCAPE_WIDTH[b]
        if width == 1:
            out[pos] = b
            pos += 1
        elif width == 2:
            out[pos] = 0x5C
            out[pos + 1] = b
            pos += 2
        else:
            out[pos] = 0x5C
            out[pos + 1] = 0x30 + b // 100
            out[pos + 2] = 0x30 + b // 10 % 10
            out[pos + 3] = 0x30 + b % 10
            pos += 4
    return pos


@kernel
def put_name(buf: Bytes, off: I64, length: I64, out: Bytes, pos: I64) -> I64:
    """Write the uncompressed wire name ``buf[off:off+length]`` in presentation form; return the end.

    ``length`` counts the root byte. ``out`` must have room for ``4 * length`` bytes after ``pos``.
    """
    if length <= 1:
        out[pos] = 0x2E
        return pos + 1
    end = off + length - 1
    while off < end:
        size = np.int64(buf[off])
        pos = put_label(buf, off + 1, size, out, pos)
        out[pos] = 0x2E
        pos += 1
        off += 1 + size
    return pos


def wire_to_text(wire: bytes) -> str:
    """Return the presentation form of an uncompressed wire name (root byte included)."""
    out = np.empty(4 * NAME_MAX + 4, np.uint8)
    # A copy that may be written to: a read-only array would be one more type to compile the kernel for.
    end = put_name(np.frombuffer(bytearray(wire), np.uint8), 0, len(wire), out, 0)
    return out[:end].tobytes().decode("ascii")


_PIECE = re.compile(r"[!#-&*-\-/-:<-?A-\[\]-~]+|\\[.\\\"'();@ ]|\\(\d{3})", re.ASCII)
r"""What a label's presentation form is made of: bare characters, an escaped special one, ``\DDD``."""

_BARE = re.compile(r"(?:[!#-&*-\-/-:<-?A-\[\]-~]{1,63}\.)+")
"""A name in presentation form without escapes."""

LABEL_MAX = 63
LABEL_COLUMNS = 10
_UNUSED = [None] * LABEL_COLUMNS


def _label_to_wire(text: str) -> bytes | None:
    label = b""
    at = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            return None
        at = piece.end()
        if digits := piece[1]:
            byte = int(digits)
            if byte > 0xFF or ESCAPE_WIDTH[byte] != 4:
                return None
            label += bytes((byte,))
        else:
            label += piece[0].lstrip("\\").encode() or b"\\"
    return label


def text_to_wire(text: str) -> bytes | None:
    r"""Return the wire form, root byte included, of a name in presentation form: `wire_to_text` undone.

    Returns None unless ``text`` is exactly what `wire_to_text` gives for some name, so other spellings of a
    name (no final dot, ``\097`` for ``a``) are refused, as are labels over 63 and names over 255 bytes.
    """
    if text == ".":
        return b"\0"
    if "\\" not in text:
        if len(text) >= NAME_MAX or not _BARE.fullmatch(text):
            return None
        return b"".join([bytes((len(label),)) + label for label in text.encode().split(b".")])
    wire = bytearray()
    for part in split_name(text):
        label = _label_to_wire(part)
        if not label or len(label) > LABEL_MAX:
            return None
        wire.append(len(label))
        wire += label
    wire.append(0)
    # Splitting drops a final dot; only an unescaped one is there to be dropped.
    if len(wire) == 1 or len(wire) > NAME_MAX or not _ends_in_separator(text):
        return None
    return bytes(wire)


def _is_separator(text: str, dot: int) -> bool:
    # Only the backslashes directly before the dot count: \\. separates, \. does not.
    at = dot
    while at > 0 and text[at - 1] == "\\":
        at -= 1
    return (dot - at) % 2 == 0


def _ends_in_separator(text: str) -> bool:
    return text.endswith(".") and _is_separator(text, len(text) - 1)


def label_starts(text: str) -> list[int]:
    r"""Return where the second and later labels of a name in presentation form begin.

    They begin behind each dot with an even number of backslashes before it; the last character of ``text``
    never counts as a separator. This holds for any text, also for what is not a valid name.
    """
    return [dot + 1 for dot, char in enumerate(text[:-1]) if char == "." and _is_separator(text, dot)]


def split_name(text: str) -> list[str]:
    """Return the labels of a name in presentation form, leftmost first, with their escapes.

    A final dot is optional. ``""`` and ``"."`` have no labels; empty labels are kept
    (``".example.com."`` gives ``["", "example", "com"]``).
    """
    if text in ("", "."):
        return []
    if "\\" not in text:
        return text.removesuffix(".").split(".")
    starts = [0, *label_starts(text)]
    ends = [start - 1 for start in starts[1:]]
    ends.append(len(text) - _ends_in_separator(text))
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def labels_of_text(text: str) -> list[str | None]:
    """Return the ten label columns of a name in presentation form, top-level domain first.

    Unused columns are None (all of them for the root). With more than ten labels the tenth column holds the
    rest, likewise reversed: ``A.B.C.D.E.F.G.H.I.J.K.M.`` ends in ``C.B.A``. A suffix entry of a domain list
    (``.example.com.``) has an empty third label.
    """
    labels = split_name(text)[::-1]
    if len(labels) > LABEL_COLUMNS:
        labels[LABEL_COLUMNS - 1 :] = [".".join(labels[LABEL_COLUMNS - 1 :])]
    return [*labels, *_UNUSED[len(labels) :]]


__all__ = [
    "ESCAPE_WIDTH",
    "LABEL_COLUMNS",
    "LABEL_MAX",
    "LOWER",
    "SPECIAL",
    "label_starts",
    "labels_of_text",
    "put_label",
    "put_name",
    "split_name",
    "text_to_wire",
    "wire_to_text",
]
