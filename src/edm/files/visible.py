"""Text that was not written by us, made fit for a terminal.

Names of files, words of lists, what other programs left in files, what peers say, and texts of errors that carry any
of these may hold control characters (C0, C1), direction marks that turn a line around, line separators, invisible
characters, or bytes that are no text at all. Printed raw they steer the terminal, pass for lines of ours, or raise.
"""

from __future__ import annotations


def visible(text: object, *, lines: bool = False) -> str:
    r"""Return ``text`` with everything escaped that is not plainly seen, in Python's notation: ``\x1b``, ``\u202e``.

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
    r"""Return JSON with the escapes of JSON for what is not plainly seen: the same values, read by any program.

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
