"""``edm init --service``: make the files and folders that the unit in ``packaging/systemd`` needs."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

from edm.cli.init import (
    CLIENTS,
    CLIENTS_NAME,
    CONFIG_NAME,
    DOMAINS_NAME,
    SOCKET_NAME,
    configuration,
    starter_list,
    write_new,
)
from edm.errors import OutputError
from edm.files.visible import visible

USER = "edm"
"""User and group of the service."""
CONFIG_FOLDER = Path("/etc/edm")
DATA_FOLDER = Path("/var/lib/dnstapir/edm")
SOCKET_FOLDER = Path("/run/edm")

_ACCESS = """\
# Who may connect to it: the user of the service, and who is in its group. Put the user of the DNS server into it.
input-unix-mode = "0660"
"""

_NEXT = """\
Made {made}
{owners}
Next, where that is not done:
  install -m 0644 packaging/systemd/edm.service /etc/systemd/system/
  {program} check-config --config-file {config}
  systemctl daemon-reload && systemctl enable --now edm

Let unbound send its answers there (unbound.conf):
  dnstap:
    dnstap-enable: yes
    dnstap-bidirectional: yes
    dnstap-socket-path: "{socket}"
    dnstap-log-client-response-messages: yes
Then, since only the group {user} may write to the socket:
  usermod -aG {user} unbound && systemctl restart unbound

The files appear below {data}/parquet at every full minute.
"""


def create_service(root: str, program: str) -> str:
    """Make the configuration, lists and folders of the service; return the next steps as text.

    Parameters
    ----------
    root : str
        The folder to use as ``/``; empty for this system itself.
    program : str
        The name of the program, for the commands in the text.

    Raises
    ------
    OutputError
        A configuration exists already, the user of the service is missing, or a file cannot be written.
    """
    top = Path(os.path.abspath(root or "/"))  # noqa: PTH100 - resolve() would follow the operator's links
    config = _below(top, CONFIG_FOLDER / CONFIG_NAME)
    if os.path.lexists(config):
        raise OutputError(f"{config} exists already and is not overwritten; remove it to start anew")
    numbers = _numbers(top)
    if not root and os.geteuid():
        raise OutputError(
            "only root can make the files of the service; --root DIR makes them in another place"
        )
    if not root and numbers is None:
        raise OutputError(
            f'there is no user {USER}: make it with "install -m 0644 packaging/systemd/edm.sysusers '
            '/etc/sysusers.d/edm.conf && systemd-sysusers"'
        )
    if os.geteuid():
        numbers = None  # only root can give files to another user
    shared = (0, numbers[1]) if numbers else None
    domains = starter_list()
    _folder(config.parent, 0o750, shared)
    _folder(_below(top, DATA_FOLDER), 0o750, numbers)
    _folder(_below(top, SOCKET_FOLDER), 0o755, numbers)
    write_new(config.with_name(DOMAINS_NAME), domains, 0o644, shared)
    write_new(config.with_name(CLIENTS_NAME), CLIENTS.encode(), 0o640, shared)
    text = configuration(CONFIG_FOLDER, SOCKET_FOLDER / SOCKET_NAME, DATA_FOLDER, _ACCESS)
    # The configuration is last, because it marks the files as complete.
    if not write_new(config, text.encode(), 0o640, shared):
        raise OutputError(f"{config} exists already and is not overwritten; remove it to start anew")
    owners = f"Owners are not set: {CONFIG_FOLDER} is for root:{USER}, the others for {USER}:{USER}.\n"
    return _NEXT.format(
        made=visible(config),
        owners="" if numbers else owners,
        program=program,
        config=CONFIG_FOLDER / CONFIG_NAME,
        socket=SOCKET_FOLDER / SOCKET_NAME,
        data=DATA_FOLDER,
        user=USER,
    )


def _below(top: Path, path: Path) -> Path:
    return top / path.relative_to("/")


def _folder(path: Path, mode: int, owner: tuple[int, int] | None) -> None:
    """Make a folder and its parents; an existing folder keeps its owner and mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise
            return
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)
        path.chmod(mode)
    except OSError as error:
        raise OutputError(f"cannot make directory {path}: {error.strerror}") from None


def _numbers(top: Path) -> tuple[int, int] | None:
    """Return the service's user and group numbers in the system below ``top``; None if they do not exist."""
    if top == Path("/"):
        try:
            return pwd.getpwnam(USER).pw_uid, grp.getgrnam(USER).gr_gid
        except KeyError:
            return None
    user, group = (_entry(top / "etc" / name) for name in ("passwd", "group"))
    return None if user is None or group is None else (user, group)


def _entry(path: Path) -> int | None:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(":")
        if fields[0] == USER and len(fields) > 2 and fields[2].isascii() and fields[2].isdigit():
            return int(fields[2])
    return None


__all__ = ["CONFIG_FOLDER", "DATA_FOLDER", "SOCKET_FOLDER", "USER", "create_service"]
