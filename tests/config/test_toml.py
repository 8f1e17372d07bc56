"""Reading the TOML file: values with their lines, and every kind of unusable file."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm.config import toml
from edm.config.text import toml_value
from edm.errors import ConfigError


def entries(tmp_path: Path, text: str | bytes) -> list[tuple[str, object, int]]:
    path = tmp_path / "c.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [tuple(entry) for entry in toml.read_entries(path)]


def failure(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        entries(tmp_path, text)
    return [line.replace(str(tmp_path) + "/", "") for line in caught.value.violations]


def test_lines_of_keys(tmp_path: Path) -> None:
    text = (
        '''# comment with "quotes' and [brackets
a = 1

"b c" = """
x = 2
[not a table]
"""""
'd' = [ # ] "
  1, "]",
  \'\'\'
]\'\'\', { x = "}" },
]
e = 'it'''
        + '\' # """\n'
        + "f.g = 1\nf.h = 2\n[t]\na = 5\n[t.u]\n[[v]]\n[[v]]\ndebug = 1\n"
    )
    assert entries(tmp_path, text) == [
        ("a", 1, 2),
        ("b c", 'x = 2\n[not a table]\n""', 4),
        ("d", [1, "]", "]", {"x": "}"}], 8),
        ("e", "it", 13),
        ("f", {"g": 1, "h": 2}, 14),
        ("t", {"a": 5, "u": {}}, 16),
        ("v", [{}, {"debug": 1}], 19),
    ]


def test_line_ends_of_windows_and_none_at_the_end(tmp_path: Path) -> None:
    assert entries(tmp_path, b"# x\r\na = 1\r\n\r\nb = 2") == [("a", 1, 2), ("b", 2, 4)]


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text())),
        unique_by=lambda pair: pair[0].lower(),
        max_size=8,
    ),
    st.lists(st.sampled_from(["", "# a = 1", '# """', "  \t", "# ["]), min_size=9, max_size=9),
)
def test_what_is_written_is_read_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, object]], between: list[str]
) -> None:
    lines, expected = [], []
    for (key, value), filler in zip(pairs, between, strict=False):
        lines += [filler, f"{toml_value(key)} = {toml_value(value)} # '''"]
        expected.append((key, value, len(lines)))
    path = tmp_path_factory.getbasetemp() / "lines.toml"
    path.write_text("\n".join(lines), newline="")
    assert [tuple(entry) for entry in toml.read_entries(path)] == expected


def test_syntax_errors_name_line_and_column(tmp_path: Path) -> None:
    assert failure(tmp_path, "a = 1\nb = yes\n") == ["c.toml:2:5: invalid TOML: Invalid value"]
    assert failure(tmp_path, "a = [") == ["c.toml:1: invalid TOML: Invalid value (at the end of the file)"]
    assert failure(tmp_path, "\ufeff\ufeffa = 1")[0].startswith("c.toml:1:1: invalid TOML")


def test_a_key_set_twice(tmp_path: Path) -> None:
    assert failure(tmp_path, "a = 1\n\na = 2") == ["c.toml:3: a is set twice, first as a in line 1"]
    assert failure(tmp_path, "Debug = true\nx = 1\ndEBUG = false\nX = 2\n") == [
        "c.toml:3: dEBUG is set twice, first as Debug in line 1",
        "c.toml:4: X is set twice, first as x in line 2",
    ]


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, "a = 2023-02-30", "a" * 100_000]
)
def test_absurd_files_end_in_one_line(tmp_path: Path, text: str) -> None:
    (line,) = failure(tmp_path, text)
    assert line.startswith("c.toml")
    assert len(line) < 300


def test_not_text(tmp_path: Path) -> None:
    assert failure(tmp_path, b"a = 1\n\xff\xfe") == ["c.toml:2: not UTF-8 text (invalid start byte)"]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        toml.read_entries(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        toml.read_entries(tmp_path)
    with pytest.raises(ConfigError, match="there is a null byte in its path"):
        toml.read_entries(Path("a\0b"))
    monkeypatch.setattr(toml, "FILE_MAX", 10)
    assert "13 bytes are more than the 10 allowed" in failure(tmp_path, "a = 12345678\n")[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("a = 1")
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        toml.read_entries(path)


def test_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "edm.toml"
    path.write_text("debug = true\n", encoding="utf-8-sig")
    assert toml.read_entries(path) == [("debug", True, 1)]
    path.write_text("debug = true\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"edm\.toml:1: is UTF-16 text: save it as UTF-8"):
        toml.read_entries(path)
