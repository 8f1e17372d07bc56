"""Text from outside: no text can control a terminal, and JSON keeps its values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm.files.visible import visible, visible_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text: \\ å 名 😀", "plain text: \\ å 名 😀"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x7f\x9b31m\x85", r"\x7f\x9b31m\x85"),
        ("\u202egnp.exe\u2066\u200f", r"\u202egnp.exe\u2066\u200f"),
        ("\u2028\u2029\u200b\ufeff\xa0", r"\u2028\u2029\u200b\ufeff\xa0"),
        ("\udc9b\ud800", r"\udc9b\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_text_of_several_lines() -> None:
    assert visible("a\n\tb\rc\x1b", lines=True) == "a\n\tb\\rc\\x1b"


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_one_line_that_can_be_written(text: str) -> None:
    assert visible(text).isprintable()
    visible(text).encode()


TEXT = st.text(st.characters(exclude_categories=()))


@given(st.recursive(st.none() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_json_keeps_its_values(value: object) -> None:
    for ascii_only in (True, False):
        written = visible_json(json.dumps(value, ensure_ascii=ascii_only))
        assert written.isprintable()
        assert json.loads(written) == value
