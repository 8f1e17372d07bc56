"""The ``make`` targets for tests: their stages, and their messages when a tool is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "packaging" / "python_venv.sh"
STAGES = ["test-fast", "test-e2e", "test-checked", "test-plain"]
SETTINGS = ["PYTHON", "VENV", "PYTEST", "PARALLEL"]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # The make that runs these tests hands its own settings on: flags, and every variable of its command line.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS")) and name not in SETTINGS
    }
    return subprocess.run(
        ["make", *arguments, *(f"{name}={value}" for name, value in variables.items())],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the Makefile, in which everything counts as installed."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "requirements-build.lock", "requirements-dev.lock", "pyproject.toml"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".venv").mkdir()
    for number, name in enumerate((".installed", ".installed-dev")):
        (tmp_path / ".venv" / name).touch()
        os.utime(tmp_path / ".venv" / name, (2 + number, 2 + number))
    (tmp_path / "tests/e2e").mkdir(parents=True)
    (tmp_path / "tests/e2e/install_servers.sh").touch()
    return tmp_path


def stand_in(project: Path, failing: str) -> str:
    """Return a test runner that notes how it is called and fails if a shell pattern fits that."""
    runner = project / "runner.sh"
    runner.write_text(
        '#!/bin/sh\ncall="$NUMBA_BOUNDSCHECK/$NUMBA_DISABLE_JIT $*"\n'
        f'echo "$call" >>{project}/calls\ncase $call in {failing}) exit 1;; esac\n'
    )
    runner.chmod(0o755)
    return str(runner)


@pytest.mark.parametrize(
    ("failing", "failed"),
    [
        ("//*not\\ e2e*", "test-fast"),  # no such call
        ("/\\ *not\\ e2e*", "test-fast"),
        ("/\\ *-m\\ e2e*", "test-e2e"),
        ("1/*", "test-checked"),
        ("/1*", "test-plain"),
        ("/*", "test-fast test-e2e test-plain"),
        ("*", "test-fast test-e2e test-checked test-plain"),
    ],
)
def test_all_stages_run_and_the_end_says_which_failed(project: Path, failing: str, failed: str) -> None:
    done = make(project, "test", PYTEST=stand_in(project, failing))
    calls = (project / "calls").read_text().splitlines()
    assert len(calls) == len(STAGES)
    if failing == "//*not\\ e2e*":
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"make test: all stages passed: {' '.join(STAGES)}"
    else:
        assert done.returncode != 0
        assert f"make test: FAILED: {failed}\n" in done.stderr


def python_that(folder: Path, *, version: str = "3, 11", ensurepip: bool) -> Path:
    """Return a Python of which only its answers to the questions of the script are left."""
    python = folder / "bin" / "python3"
    python.parent.mkdir(exist_ok=True)
    python.write_text(
        "#!/bin/sh\ncase $2 in\n"
        f"*ensurepip*) [ {int(ensurepip)} = 1 ];;\n"
        f'*version_info\\ \\<*) [ "{version}" != "3, 9" ];;\n'
        "*executable*) echo /usr/bin/python3;;\nesac\n"
    )
    python.chmod(0o755)
    return python


def check_python(python: Path | str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), str(python)],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_python_that_can_make_environments_needs_nothing(tmp_path: Path) -> None:
    done = check_python(python_that(tmp_path, ensurepip=True), tmp_path / "bin")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_one_line_says_what_to_install(tmp_path: Path) -> None:
    # No apt-get on this path: even root cannot install.
    done = check_python(python_that(tmp_path, ensurepip=False), tmp_path / "bin")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "apt-get install python3-venv" in done.stderr


def test_root_gets_it_installed(tmp_path: Path) -> None:
    python = python_that(tmp_path, ensurepip=False)
    for name in ("mktemp", "rm", "tail"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
    for name, body in (
        ("id", "echo 0"),
        # The package comes with the second try, after the lists were fetched.
        (
            "apt-get",
            f'echo "$@" >>{tmp_path}/apt\ncase "$*" in *update*) : >{tmp_path}/fresh;; '
            f'*) [ -e {tmp_path}/fresh ] && printf "#!/bin/sh\\n" >{python};; esac',
        ),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = check_python(python, tmp_path / "bin")
    assert (done.returncode, done.stderr) == (0, "Installing python3-venv\n")
    assert [line.split()[3] for line in (tmp_path / "apt").read_text().splitlines()] == [
        "install",
        "update",
        "install",
    ]


def test_no_python_and_an_old_python_are_named(tmp_path: Path) -> None:
    missing = check_python("python3.99", tmp_path)
    assert missing.returncode == 1
    assert "there is no python3.99 here" in missing.stderr
    old = check_python(python_that(tmp_path, version="3, 9", ensurepip=True), tmp_path / "bin")
    assert old.returncode == 1
    assert "Python 3.11 or newer is needed" in old.stderr
    assert missing.stderr.count("\n") == old.stderr.count("\n") == 1
