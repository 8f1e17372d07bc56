"""The configuration page agrees with the declaration of the keys."""

from pathlib import Path

import pytest

from edm.config import KEYS, docs

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == docs.render(), "run: python -m edm.config.docs docs/configuration.md"


def test_the_page_has_every_key_once() -> None:
    text = docs.render()
    for name in KEYS:
        assert text.count(f"| `{name}` |") == 1


def test_writing_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main([str(tmp_path / "c.md")]) == 0
    assert docs.main([]) == 0
    assert (tmp_path / "c.md").read_text() == capsys.readouterr().out == docs.render()
