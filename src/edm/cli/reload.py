"""``edm reload``: check the configuration and all files, let the running daemon reload them, and tell the outcome."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import sys
import time
from pathlib import Path
from typing import cast

from edm.cli.arguments import Arguments, Option, Spec
from edm.cli.checks import problems
from edm.cli.printing import complain, say
from edm.config import Config, load
from edm.errors import ConfigError, EdmError
from edm.files.own import open_own
from edm.files.visible import visible, visible_json
from edm.reload.outcome import ReloadOutcome, UntrustedError

POLL = 0.05
"""Seconds between two looks for the outcome."""
TIMEOUT = 60

_LOCK_MAX = 32

SPEC = Spec(
    options=(
        Option("check", "Only check whether a reload would work.", "bool", default=False),
        Option(
            "preview",
            "Only tell what a reload would change for the traffic of the last seconds.",
            "bool",
            default=False,
        ),
        Option("json", "With --preview: print the result as JSON.", "bool", default=False),
        Option(
            "force",
            "Reload although the check found something: what is good is taken up.",
            "bool",
            default=False,
        ),
        Option("timeout", "Seconds to wait for the outcome.", "int", default=TIMEOUT),
        Option(
            "pid",
            "Process of the daemon; without it the daemon that uses the data directory is found.",
            "int",
        ),
    ),
    about="Check the configuration, lists, keys and certificates; then let the running daemon reload them "
    "(SIGHUP), wait for it, and print the result for each part. The exit code is 0 if all parts were reloaded, and "
    "1 if not. If the check fails, nothing is changed. If a part fails later, it keeps its old state. Give the same "
    "flags and environment as for the daemon.",
)


class NoDaemonError(EdmError):
    """There is no daemon to reload, or it does not answer."""


def find_daemon(data: Path, pid: int | None = None) -> int:
    """Return the process that has the data directory's lock.

    Parameters
    ----------
    data : Path
        The data directory.
    pid : int, optional
        The process that must be it.

    Raises
    ------
    NoDaemonError
        No process has it, or not the one that was named.
    """
    # Imported only here: it brings the kernels' compiler with it.
    from edm.stages.new_qname.seen.folder import LOCK_NAME
    from edm.stages.new_qname.seen.store import FOLDER_NAME

    lock = data / FOLDER_NAME / LOCK_NAME
    try:
        written = _read_lock(lock)
        holder = pid or int(written)
    except FileNotFoundError:
        raise NoDaemonError(f"no daemon has ever used the data directory {data}") from None
    except OSError as error:
        raise NoDaemonError(f"{lock}: {error.strerror}") from None
    except ValueError:
        raise NoDaemonError(f"{lock}: does not hold the number of a process") from None
    try:
        found = _has_open(holder, lock)
    except PermissionError:
        raise NoDaemonError(
            f"no permission to look at process {holder}: only root and the user that runs it may reload the daemon"
        ) from None
    if not found:
        raise NoDaemonError(
            f"no daemon runs with the data directory {data}: process {holder} is none that uses it"
        )
    _must_be_entitled(holder, data)
    return holder


def _read_lock(lock: Path) -> str:
    """Return what is in the lock; nothing that somebody put in its place is followed or waited for."""
    descriptor = open_own(lock, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no plain file")
        return file.read(_LOCK_MAX).decode("ascii")


def _has_open(pid: int, file: Path) -> bool:
    """Tell whether a process is alive and has ``file`` open, so that a reused process number is not mistaken for it."""
    wanted = file.stat()
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False
    for descriptor in descriptors:
        try:
            if os.path.samestat(descriptor.stat(), wanted):
                return True
        except OSError:  # closed meanwhile
            continue
    return False


def request_reload(pid: int, data: Path, timeout: float) -> ReloadOutcome:
    """Make a daemon reload and wait for the outcome, also of parts whose reload is delayed.

    Raises
    ------
    NoDaemonError
        It cannot be signalled, ends, or is not done within ``timeout`` seconds.
    """
    asked = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    deadline = time.monotonic() + timeout
    latest = None
    refused = ""
    try:
        user = user_of(pid)
        os.kill(pid, signal.SIGHUP)
        while time.monotonic() < deadline:
            time.sleep(POLL)
            outcome, refused = _outcome(data, user)
            # One that began before may have read files as they were before.
            if outcome is not None and outcome.pid == pid and outcome.began_us >= asked:
                latest = outcome
                if not outcome.waiting:
                    return outcome
            os.kill(pid, 0)
    except ProcessLookupError:
        raise NoDaemonError(f"the daemon, process {pid}, has ended") from None
    except OSError as error:
        raise NoDaemonError(f"cannot signal process {pid}: {error.strerror}") from None
    if latest is not None:
        return latest
    hint = refused or "see the log of the daemon"
    raise NoDaemonError(f"no outcome of the reload within {timeout:g} seconds: {hint}")


def _outcome(data: Path, user: int) -> tuple[ReloadOutcome | None, str]:
    """Return the outcome if there is one that can be believed, and why one is not."""
    try:
        return ReloadOutcome.read(data, user), ""
    except UntrustedError as error:
        return None, str(error)
    except EdmError:
        return None, ""


def user_of(pid: int) -> int:
    """Return the number of the user whose rights a process has.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except FileNotFoundError:
        raise ProcessLookupError from None
    found = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
    if found is None:
        raise ProcessLookupError
    return int(found[1])


def _must_be_entitled(pid: int, data: Path) -> None:
    """Refuse a process that may have put its number into a data directory that every user can write to."""
    folder = data.stat()
    try:
        user = user_of(pid)
    except ProcessLookupError:
        return  # and it can no more be asked for anything
    if folder.st_mode & stat.S_IWOTH and user not in (0, folder.st_uid, os.geteuid()):
        raise NoDaemonError(
            f"process {pid} is not believed to be the daemon: others can write to {data}, and its user is another"
        )


def as_text(outcome: ReloadOutcome) -> str:
    """Return what became of each part, a line each."""
    width = max(map(len, outcome.parts))
    lines = []
    for name, part in outcome.parts.items():
        text: str = "FAILED, keeps its old state" if part.result == "failed" else part.result
        if name == "well_known_domains" and part.result == "reloaded":
            text += ", used from the next rotation on"
        lines.append(f"{name:{width}}  {text}")
        lines += [f"{'':{width}}  {reason}" for reason in part.reasons]
    if outcome.restart:
        lines.append(f"changed, but not used before a restart: {', '.join(outcome.restart)}")
    return "".join(visible(line) + "\n" for line in lines)


def check(cfg: Config, program: str, force: bool) -> None:
    """Print what is wrong with the configuration's files.

    Raises
    ------
    ConfigError
        Something is, and not ``force``.
    """
    complain(program, *(f"warning: {line}" for line in cfg.warnings))
    if found := problems(cfg):
        if not force:
            raise ConfigError(*found)
        complain(program, *found)


def preview(args: Arguments, data: Path) -> int:
    """Let the daemon try a reload on its sample of the traffic, and print what would change; return 0 if all loads.

    Raises
    ------
    EdmError
        It does not answer, or cannot read its configuration.
    """
    from edm.observe.control import ask
    from edm.trial.telling import tell_comparison

    found = ask(data, {"ask": "preview"}, float(cast(int, args.options["timeout"])))
    if args.options["json"]:
        print(visible_json(json.dumps(found, indent=2)))
    else:
        say(f"Of the last {found['seconds']:.0f} seconds, a sample of the frames:", *tell_comparison(found))
    complain(args.program, *(f"would keep its old state: {line}" for line in found["problems"]))
    return 1 if found["problems"] else 0


def run(args: Arguments) -> int:
    """Check, reload, and print the outcome; return 0 if every part was reloaded."""
    cfg = load(args.config_file, args.flags, os.environ)
    check(cfg, args.program, bool(args.options["force"]))
    if args.options["check"]:
        print("A reload would work.")
        return 0
    data = Path(cfg.data_dir)
    if args.options["preview"]:
        return preview(args, data)
    pid = find_daemon(data, cast("int | None", args.options["pid"]))
    outcome = request_reload(pid, data, float(cast(int, args.options["timeout"])))
    sys.stdout.write(as_text(outcome))
    sys.stdout.flush()
    if outcome.failed:
        complain(args.program, f"not everything could be reloaded: {', '.join(outcome.failed)}")
        return 1
    return 0
