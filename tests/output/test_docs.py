"""The tables of columns in the documentation agree with the declarations."""

from __future__ import annotations

from pathlib import Path

import pytest

from edm.output.docs import TABLES, main, with_tables

PAGE = Path(__file__).resolve().parents[2] / "docs" / "files.md"


def test_the_page_is_what_the_declarations_give() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run python -m edm.output.docs docs/files.md"
    for table in TABLES.values():
        assert table in page


@pytest.mark.parametrize("title", TABLES)
def test_a_page_that_says_otherwise_is_mended(title: str, tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    copy = tmp_path / "files.md"
    first_row = TABLES[title].splitlines()[2]
    copy.write_text(
        page.replace(first_row, "| `other` | string | something else | never |"), encoding="utf-8"
    )
    main([str(copy)])
    assert copy.read_text(encoding="utf-8") == page
