"""Writes the tables of columns in ``docs/files.md`` from their declarations: ``python -m edm.output.docs FILE``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from edm.files.column import table_of
from edm.stages.histogram.schema import COLUMNS as HISTOGRAM_COLUMNS
from edm.stages.session.columns import COLUMNS as SESSION_COLUMNS

TABLES = {
    "Session files": table_of(SESSION_COLUMNS, null=True),
    "Histogram files": table_of(HISTOGRAM_COLUMNS, null=False),
}
"""The table of each section."""


def with_tables(page: str) -> str:
    """Return ``page`` with the first table of each of these sections made again."""
    for title, table in TABLES.items():
        head, heading, rest = page.partition(f"\n## {title}\n")
        section, end, tail = rest.partition("\n## ")
        table_there = re.search(r"(?:^\|.*\n)+", section, re.M)
        if table_there is not None:
            section = section.replace(table_there[0], table + "\n", 1)
        page = head + heading + section + end + tail
    return page


def main(arguments: Sequence[str]) -> None:
    """Rewrite the page named on the command line."""
    (name,) = arguments
    path = Path(name)
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
