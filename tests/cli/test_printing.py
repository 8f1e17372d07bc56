"""Standard streams that are closed, full or broken: at most one line, and an exit code that says so."""

import subprocess
import sys
from pathlib import Path

import pytest

EDM = f"{sys.executable} -m edm.cli.main"


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", "-c", command.replace("edm ", EDM + " ")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_reader_that_has_enough_is_no_fault(tmp_path: Path) -> None:
    text = tmp_path / "list"
    text.write_text("".join(f"{i}.example\n" for i in range(50_000)))
    assert shell(f"edm dawg compile {text} -o {text}.dawg")[0] == 0
    for buffered in ("", "1"):
        pipe = f"edm dawg dump {text}.dawg | head -n 1; exit ${{PIPESTATUS[0]}}"
        code, out, err = shell(pipe, PYTHONUNBUFFERED=buffered)
        assert (code, err) == (141, "")
        assert out.endswith(".example.\n")
    assert shell("edm help | true") == (0, "", "")


@pytest.mark.parametrize("command", ["help", "version", "dawg -h"])
def test_output_that_cannot_be_written_is_one_line(command: str) -> None:
    for output, reason in (("/dev/full", "No space left on device"), ("&-", "Bad file descriptor")):
        for buffered in ("", "1"):
            done = shell(f"edm {command} >{output}", PYTHONUNBUFFERED=buffered)
            assert done == (1, "", f"edm: standard output: {reason}\n")


def test_closed_standard_streams_change_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.example\n")
    for closed in ("2>&-", "<&-", "<&- 2>&-"):
        code, out, err = shell(f"edm dawg compile {tmp_path}/list -o {tmp_path}/dawg {closed}")
        assert (code, out, err) == (
            0,
            f"{tmp_path}/dawg: 1 entries, {(tmp_path / 'dawg').stat().st_size:,} bytes\n",
            "",
        )
    # What is opened must not get the number of a closed stream: what is printed would be written into it.
    code, out, _ = shell(f"edm dawg compile {tmp_path}/list -o {tmp_path}/other >&- 2>&- <&-")
    assert (code, out) == (1, "")
    assert (tmp_path / "other").read_bytes() == (tmp_path / "dawg").read_bytes()
    assert shell("edm no-such-command 2>&-") == (1, "", "")
    assert shell("edm no-such-command 2>/dev/full") == (1, "", "")
