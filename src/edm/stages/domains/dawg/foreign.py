"""Recognising lists in other formats that are mistaken for lists of names."""

from __future__ import annotations

import re

_FORMATS = tuple(
    (re.compile(pattern, re.ASCII | re.IGNORECASE), what)
    for pattern, what in (
        (r"\ufffd", "this is no UTF-8 text"),
        (
            r"\[adblock|!|@@|\|\||[^#]*\^(?:\$.*)?$|.*#[@?$]?#",
            "this looks like a filter list of an ad blocker",
        ),
        (r"(?:address|server|local|ipset)=/", "this looks like a configuration of dnsmasq"),
        (r"(?:local-zone|local-data|zone):?\s", "this looks like a configuration of a DNS server"),
        (r"[a-z][a-z0-9+.-]*://", "this looks like a URL: a list holds names alone"),
        (r"/.*/$", "this looks like a regular expression"),
        (r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f]*:[0-9a-f:.]*)\s+\S", "this looks like a hosts file"),
        (
            r"\S+\s+(?:[0-9]+\s+)?(?:in\s+)?(?:cname|a|aaaa|ns|soa|txt|mx)\s",
            "this looks like a zone file or an RPZ",
        ),
        (
            r'"?[0-9]+"?[,;\t]',
            "this looks like a ranking as CSV: take the column with the names (cut -d, -f2)",
        ),
        (r'(?:.*[^\\])?[,;"]', "this looks like CSV: take the column with the names"),
        (r"[^/\\]*:[0-9]+$", "this looks like an address with a port: a list holds names alone"),
        (r"[^\\]*/", "this looks like a URL or a path: a list holds names alone"),
    )
)


def foreign_format(text: str) -> str | None:
    r"""Return which other format a line of a list looks like, or nothing if it looks like an entry.

    Names with such characters exist nevertheless. They are taken with a final dot, as lists are printed, or with the
    characters escaped (``1\,example.com``).
    """
    if text.endswith("."):
        return None
    return next((what for pattern, what in _FORMATS if pattern.match(text)), None)


__all__ = ["foreign_format"]
