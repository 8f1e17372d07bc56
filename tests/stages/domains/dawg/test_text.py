"""Names and list files in the forms in which people write them."""

from __future__ import annotations

from pathlib import Path

import dns.name
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.errors import ListFileError
from edm.kernel.jit import JIT_DISABLED
from edm.stages.domains import (
    Dawg,
    DomainTable,
    compile_list,
    compile_list_file,
    parse_entry,
    parse_name,
    starter_dawg,
    write_dawg,
)
from edm.stages.names import wire_to_text

labels = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8)


@settings(max_examples=100 if JIT_DISABLED else 500, deadline=None)
@given(labels)
def test_names_of_any_bytes(parts: list[bytes]) -> None:
    wire = b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    assert parse_name(wire_to_text(wire)) == wire
    assert parse_name(wire_to_text(wire)[:-1]) == wire
    assert parse_name(dns.name.from_wire(wire, 0)[0].to_text()) == wire


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        (".", b"\0"),
        ("a", b"\1a\0"),
        ("a.B.", b"\1a\1B\0"),
        (r"\065.b", b"\1A\1b\0"),
        (r"a\.b.c.", b"\3a.b\1c\0"),
        (r"a\\.b", b"\2a\\\1b\0"),
        (r"\ \x\"", b'\3 x"\0'),
        ("$#@!", b"\4$#@!\0"),
        ("a" * 63, b"\x3f" + b"a" * 63 + b"\0"),
        ("a." * 127, b"\1a" * 127 + b"\0"),
    ],
)
def test_names(text: str, wire: bytes) -> None:
    assert parse_name(text) == wire


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the name is empty"),
        ("a..b", "a label is empty"),
        (".a", "a label is empty"),
        ("..", "a label is empty"),
        ("a.b\\", "ends in a backslash"),
        (r"\256", r"\\256 is no byte"),
        ("a b", r"' ' must be written as \\032"),
        ("a\tb", r"'\\t' must be written as \\009"),
        ("b\u00fccher.de", "xn-- form"),
        ("\\\u00fc", "xn-- form"),
        ("a" * 64, "longer than 63"),
        ("a." * 128, "longer than 255"),
    ],
)
def test_no_names(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_name(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("example.com", "example.com."),
        ("Example.COM.", "example.com."),
        (".example.com", ".example.com."),
        ("*.example.com.", ".example.com."),
        ("*.*.example.com", ".*.example.com."),
        (".", "."),
        ("com", "com."),
        ("*.com", ".com."),
        (r"\065.com", "a.com."),
        (r"\097@b.com", r"a\@b.com."),
        (r"*.\255.com", r".\255.com."),
        ("a*.example", "a*.example."),
    ],
)
def test_entries(text: str, word: str) -> None:
    assert parse_entry(text) == word


@pytest.mark.parametrize("text", ["*", "*.", "..", "..a", "a..b", "*..a", "1 2", "\u00fc.de", "-" * 64])
def test_no_entries(text: str) -> None:
    with pytest.raises(ValueError):
        parse_entry(text)


def test_list() -> None:
    lines = [
        "# a comment\n",
        "\n",
        "  Example.com  # with a remark\r\n",
        "*.example.net\t#\n",
        "a#b.example.\n",
        "example.com.",
    ]
    assert list(Dawg.from_bytes(compile_list(lines))) == [".example.net.", "a#b.example.", "example.com."]
    assert compile_list([]) == write_dawg([])


def test_line_of_an_error() -> None:
    with pytest.raises(ListFileError, match=r"^names\.txt: line 3: a label is empty$"):
        compile_list(["a", "", "b..c", "*"], "names.txt")


def test_list_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"b.example\r\na.example\n")
    assert compile_list_file(path) == write_dawg(["a.example.", "b.example."])
    path.write_bytes(b"b.example\nb\xfccher.de\n")
    with pytest.raises(ListFileError, match=r"names\.txt: line 2: .*xn--"):
        compile_list_file(path)
    with pytest.raises(ListFileError, match=r"missing: No such file"):
        compile_list_file(tmp_path / "missing")


def test_starter_list() -> None:
    dawg = Dawg.from_bytes(starter_dawg())
    table = DomainTable.build(dawg)
    assert 300 <= table.entries == table.words <= 600
    assert table.match("WWW.Google.com")[1] == 1
    assert table.match("2.se.pool.ntp.org.")[1] == 2
    assert table.match("no-such.example") == (-1, 0)


@pytest.mark.parametrize(
    ("line", "looks"),
    [
        ("1,google.com", "a ranking as CSV"),
        ('"1","google.com"', "a ranking as CSV"),
        ("google.com,1", "CSV"),
        ("https://google.com/", "a URL"),
        ("HTTP://google.com", "a URL"),
        ("google.com/path", "a URL or a path"),
        ("google.com:443", "an address with a port"),
        ("||ads.example^", "a filter list"),
        ("||ads.example^$third-party", "a filter list"),
        ("@@||good.example^", "a filter list"),
        ("ads.example##.banner", "a filter list"),
        ("! Title: ads", "a filter list"),
        ("[Adblock Plus 2.0]", "a filter list"),
        ("0.0.0.0 ads.example", "a hosts file"),
        ("127.0.0.1\tads.example # bad", "a hosts file"),
        ("::1 localhost", "a hosts file"),
        ("address=/ads.example/0.0.0.0", "dnsmasq"),
        ('local-zone: "ads.example" always_nxdomain', "a DNS server"),
        ("ads.example CNAME .x", "a zone file"),
        ("/^ads[0-9]+/", "a regular expression"),
    ],
)
def test_lists_of_other_formats_are_named_with_the_line(line: str, looks: str) -> None:
    with pytest.raises(
        ListFileError, match=f"^my list: line 2: this looks like (a configuration of )?{looks}"
    ):
        compile_list(["good.example", line], "my list")


@pytest.mark.parametrize(
    "line", [r"1\,google.com", "1,google.com.", "a/b.example.", r"a\/b.example", "_dmarc.example"]
)
def test_odd_names_can_be_written(line: str) -> None:
    assert len(Dawg.from_bytes(compile_list([line]))) == 1


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("good.example\n", encoding="utf-8-sig")
    assert list(Dawg.from_bytes(compile_list_file(path))) == ["good.example."]
    path.write_text("good.example\n", encoding="utf-16")
    with pytest.raises(ListFileError, match="line 1: this is no UTF-8 text"):
        compile_list_file(path)
