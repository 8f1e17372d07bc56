"""Matching a question name against a list, on texts: the whole name, then its endings after each dot."""

from __future__ import annotations


def match(words: dict[str, int], name: str) -> tuple[int, int]:
    """Return (index, 1 exact or 2 suffix) of the word that ``name`` matches, or (-1, 0).

    ``name`` is in presentation form with its final dot.
    """
    name = name.lower()
    if name in words:
        return words[name], 1
    for i, char in enumerate(name[:-1]):
        if char == ".":
            backslashes = len(name[:i]) - len(name[:i].rstrip("\\"))
            if backslashes % 2 == 0 and name[i:] in words:
                return words[name[i:]], 2
    return -1, 0
