"""``edm dawg``: lists are compiled and dumped, names match by the daemon's rules, bad files are named."""

import stat
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edm.cli.main import main
from edm.stages.domains import Dawg, write_dawg
from edm.stages.names import wire_to_text
from oracles import dawg_reader

LISTS = Path(__file__).parents[1] / "captures" / "lists"


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])


@pytest.fixture
def compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    source, out = tmp_path / "list.txt", tmp_path / "list.dawg"
    source.write_text("# well known\nexample.com\n*.example.net\nB.example  # a comment\n\n.example.net\n")
    assert main(["dawg", "compile", str(source), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 3 entries, {out.stat().st_size} bytes\n"
    return out


def test_compile(compiled: Path) -> None:
    assert list(Dawg.open(compiled)) == [".example.net.", "b.example.", "example.com."]
    assert [path.name for path in compiled.parent.iterdir() if path.name.startswith(".")] == []


def test_compile_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    source.write_text("example.org\n")
    with source.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["dawg", "compile", "-", "-o", str(tmp_path / "out")]) == 0
    assert list(Dawg.open(tmp_path / "out")) == ["example.org."]


def test_compile_replaces_a_file_and_keeps_its_mode(compiled: Path) -> None:
    compiled.chmod(0o640)
    inode = compiled.stat().st_ino
    source = compiled.with_name("new.txt")
    source.write_text("example.org\n")
    assert main(["dawg", "compile", str(source), "-o", str(compiled)]) == 0
    assert list(Dawg.open(compiled)) == ["example.org."]
    # Another file: a daemon that has just opened the old one reads that to its end.
    assert compiled.stat().st_ino != inode
    assert stat.S_IMODE(compiled.stat().st_mode) == 0o640


def test_a_bad_line_is_named_and_the_old_file_stays(
    compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = compiled.read_bytes()
    source = compiled.with_name("bad.txt")
    source.write_text("example.org\nexa mple.org\n")
    assert main(["dawg", "compile", str(source), "-o", str(compiled)]) == 1
    assert f"{source}: line 2: " in capsys.readouterr().err
    assert compiled.read_bytes() == before


def test_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "list"
    source.write_text("example.org\n")
    (tmp_path / "folder").mkdir()
    for out, reason in ((tmp_path / "folder", "is a directory"), (tmp_path / "no" / "out", "No such file")):
        assert main(["dawg", "compile", str(source), "-o", str(out)]) == 1
        assert f"cannot write {out}: {reason}" in capsys.readouterr().err


LABEL = st.binary(min_size=1, max_size=12).map(bytes.lower)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(
    lambda labels: wire_to_text(b"".join(bytes([len(label)]) + label for label in labels) + b"\0")
)
WORD = st.one_of(NAME, NAME.map(lambda name: "." + name))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(words=st.sets(WORD, max_size=8))
@example(words={"*.", ".*.", "*.example.", "#.example.", r"a\ #b.", ".#.", "."})
def test_what_dump_prints_compiles_to_the_same_file(
    words: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, text, second = tmp_path / "1.dawg", tmp_path / "list", tmp_path / "2.dawg"
    first.write_bytes(write_dawg(words))
    capsys.readouterr()
    assert main(["dawg", "dump", str(first)]) == 0
    text.write_text(capsys.readouterr().out)
    assert main(["dawg", "compile", str(text), "-o", str(second)]) == 0
    assert second.read_bytes() == first.read_bytes()


def test_dump_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "odd.dawg"
    path.write_bytes(write_dawg(["a\x1b[2J.", "b\n.", "é."]))
    assert main(["dawg", "dump", str(path)]) == 0
    assert capsys.readouterr().out == "a\\x1b[2J.\nb\\n.\n\\xe9.\n"


def test_lookup(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dawg", "lookup", str(compiled), "www.EXAMPLE.net", "b.example."]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "www.EXAMPLE.net: suffix entry .example.net. (index 0)",
        "b.example.: exact entry b.example. (index 1)",
    ]
    assert main(["dawg", "lookup", str(compiled), "example.net", "example.com"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "example.net: no match",
        "example.com: exact entry example.com. (index 2)",
    ]
    assert main(["dawg", "lookup", str(compiled), "a..b"]) == 1
    assert "'a..b' is not a domain name: a label is empty" in capsys.readouterr().err


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    path = LISTS / "well-known.dawg"
    words = dawg_reader.Reader(path.read_bytes()).words()
    suffixes = sum(word.startswith(".") for word in words)
    assert main(["dawg", "check", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: valid\n")
    assert f"{len(words):,}  entries, {suffixes:,} of them suffix entries" in out
    assert "never match" not in out


def test_check_tells_of_entries_that_never_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "odd.dawg"
    path.write_bytes(write_dawg(["", ".", "Upper.example.", "example.com", "example.org.", ".example.se."]))
    assert main(["dawg", "check", str(path)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["6", "entries, 1 of them suffix entries"] in lines
    assert ["3", "of them can never match: not the lower-case form of a name, with its final dot"] in lines
    assert ["Upper.example."] in lines
    assert ["example.com"] in lines
    assert ["example.org."] not in lines


@pytest.mark.parametrize("action", ["check", "dump", "lookup"])
def test_a_damaged_file_is_named(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.dawg"
    path.write_bytes((LISTS / "ignored-names.dawg").read_bytes()[:-1])
    assert main(["dawg", action, str(path), *(["example.com"] if action == "lookup" else [])]) == 1
    assert f"{path}: not a valid DAWG file: at byte 0 (bit 0)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "is missing"),
        (["make", "x"], "unknown action 'make'"),
        (["compile", "x"], "compile needs -o FILE"),
        (["check"], "check needs a file"),
        (["check", "a", "b"], "unexpected argument 'b'"),
        (["dump", "x", "-o", "y"], "-o has no meaning for dump"),
        (["lookup", "x"], "lookup needs a name"),
    ],
)
def test_usage(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dawg", *arguments]) == 1
    assert problem in capsys.readouterr().err
