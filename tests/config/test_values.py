"""The text forms of values, compared with Go's rules."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edm.config import values
from oracles.configuration import FALSE, TRUE, go_parse_int


@pytest.mark.parametrize("text", TRUE + FALSE)
def test_boolean_forms(text: str) -> None:
    assert values.parse_bool(text) is (text in TRUE)


@given(
    st.one_of(st.text(max_size=6), st.sampled_from(["yes", "on", "tRUE", " true", "true ", "", "2", "-1"]))
)
def test_no_other_boolean_forms(text: str) -> None:
    if text not in TRUE + FALSE:
        with pytest.raises(ValueError, match="boolean"):
            values.parse_bool(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("-0", 0),
        ("+5", 5),
        ("1_000_000", 1_000_000),
        ("0x1F", 31),
        ("0X_1f", 31),
        ("0b1_01", 5),
        ("0B11", 3),
        ("0o17", 15),
        ("0O17", 15),
        ("017", 15),
        ("0_7", 7),
        ("00", 0),
        ("-0x10", -16),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("0x7fffffffffffffff", 2**63 - 1),
    ],
)
def test_integer_literals(text: str, number: int) -> None:
    assert values.parse_int(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "08",
        "0x",
        "0b",
        "0b2",
        "_1",
        "1_",
        "1__0",
        "0x_",
        "0_",
        "1.0",
        "1e3",
        " 1",
        "1 ",
        "١",
        "--1",
        "0xg",
        "9223372036854775808",
        "-9223372036854775809",
        "1" * 5000,
        "0x" + "f" * 5000,
    ],
)
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(ValueError, match=r"must (be an integer|fit into 64 bits)"):
        values.parse_int(text)


@given(
    st.one_of(st.text("0123456789abfxXoOB_+-", max_size=9), st.integers(-(2**65), 2**65).map(str), st.text())
)
@example("0x8000000000000000")
@example("-0x8000000000000000")
def test_integers_agree_with_the_definition(text: str) -> None:
    expected = go_parse_int(text)
    try:
        got = values.parse_int(text)
    except ValueError:
        got = None
    assert got == expected


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("30", 30), ("0030", 30), ("65535", 65535)])
def test_uint16(text: str, number: int) -> None:
    assert values.parse_uint16(text) == number


@pytest.mark.parametrize("text", ["", "65536", "-1", "+1", "0x10", "1_0", "1" * 5000, " 1"])
def test_what_is_no_uint16(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_uint16(text)


@pytest.mark.parametrize(
    ("text", "mode"), [("", None), ("0660", 0o660), ("600", 0o600), ("0o777", 0o777), ("0", 0)]
)
def test_modes(text: str, mode: int | None) -> None:
    assert values.parse_mode(text) == mode


@pytest.mark.parametrize("text", ["0888", "rw", "1777", "66000", "-1", "0x1f", "6 6"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(ValueError, match="octal"):
        values.parse_mode(text)


def test_owners() -> None:
    assert values.parse_owner("") == ("", "")
    assert values.parse_owner("edm") == ("edm", "")
    assert values.parse_owner(":dns") == ("", "dns")
    assert values.parse_owner("edm:dns") == ("edm", "dns")
    for bad in (":", "a:b:c", "a b"):
        with pytest.raises(ValueError, match="USER:GROUP"):
            values.parse_owner(bad)


def test_shorten_keeps_one_readable_line() -> None:
    assert values.shorten("a\nb") == r"'a\nb'"
    assert values.shorten(True) == "true"
    assert len(values.shorten("x" * 1000)) == 60
