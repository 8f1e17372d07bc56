"""Escaping text from outside, so that it can be printed on a terminal.

File names, words of lists, contents of files, messages of peers, and error texts that contain any of these may hold
control characters (C0, C1), direction marks that turn a line around, line separators, invisible characters, or bytes
that are no text at all. Printed raw they control the terminal, look like lines of our own, or raise.
"""

from __future__ import annotations


def visible(text: object, *, lines: bool = False) -> str:
    r"""Return ``text`` with all characters escaped that cannot be seen, in Python's notation: ``\x1b``, ``\u202e``.

    Parameters
    ----------
    text : object
        Anything with a text form.
    lines : bool
        Leave line feeds and tabs alone: for text of several lines, such as a traceback.
    """
    found = str(text)
    if found.isprintable():
        return found
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in found)


def visible_json(text: str) -> str:
    r"""Return the same JSON with all characters escaped that cannot be seen; any program reads the same values.

    Parameters
    ----------
    text : str
        One line of valid JSON: outside of its strings there is nothing to escape.
    """
    return text if text.isprintable() else "".join(map(_json_escape, text))


def _json_escape(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


__all__ = ["visible", "visible_json"]
