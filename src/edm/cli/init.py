"""``edm init``: make a directory with a working configuration that keeps everything on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
from pathlib import Path

from edm.cli.arguments import Arguments, Option, Spec, UsageError
from edm.cli.checks import socket_path_problem
from edm.config.key import Value
from edm.config.text import toml_value
from edm.config.values import shorten
from edm.errors import OutputError

CONFIG_NAME = "edm.toml"
DATA_NAME = "data"
SOCKET_NAME = "dnstap.sock"
DOMAINS_NAME = "well-known-domains.dawg"
CLIENTS_NAME = "ignored-clients"

KEY_BYTES = 32
"""Random bytes in a generated key; Crypto-PAn's AES-128 needs only 16."""
SALT_BYTES = 16

SPEC = Spec(
    positional="[DIR]",
    options=(
        Option(
            "service",
            "Instead of DIR: the files of the service of packaging/systemd, in /etc/edm, for the user edm.",
            kind="bool",
            default=False,
        ),
        Option("root", "With --service: the folder that stands for /, for packages and images."),
    ),
    config=False,
    about="Make DIR with a configuration that works at once: a secret of its own, a Unix socket for dnstap, "
    "a data directory, a starter list of well-known domains. Nothing is sent to Core. An existing "
    "configuration is never overwritten.",
)

_CONFIG = """\
# Configuration of EDM, made by "edm init". It holds a secret: keep it readable to its owner only.
# Every key is described in docs/configuration.md; "edm check-config --config-file FILE" tries this file out.

# The secret behind the pseudonyms of clients and servers. A new one makes all pseudonyms new.
cryptopan-key = {key}
# Salt for deriving the key from the secret, at least 8 bytes.
cryptopan-key-salt = {salt}

# Where DNS servers deliver dnstap (Frame Streams).
input-unix = {socket}
{access}
# Everything that is stored goes here: parquet/sessions, parquet/histograms, new_qname, the names seen.
data-dir = {data}

# Queries for these domains are only counted in histograms.
well-known-domains-file = {domains}
# Queries from these prefixes are ignored.
ignored-client-ips-file = {clients}

# Number of workers; 0 is one for each CPU.
minimiser-workers = 0

# Nothing leaves this machine: new names and histograms are not sent to Core.
disable-mqtt = true
disable-histogram-sender = true

# Names never seen before go into files below data-dir, one JSON event a line.
new-qname-file = true

# Lets "curl -X POST http://127.0.0.1:2112/debug/rotate-parquet" write the files before the minute is over.
enable-manual-parquet-rotation = true
"""

_ACCESS = """\
# Who may connect to it. Without these two lines the umask decides, and the socket belongs to who runs EDM.
# input-unix-mode = "0660"
# input-unix-owner = ":unbound"
"""

CLIENTS = """\
# Clients whose queries are ignored: one prefix a line, such as 192.0.2.0/24 or 2001:db8::/32.
# Lines that begin with "#" and empty lines are skipped. EDM reads this file anew on SIGHUP.
"""

_NEXT = """\
Made {config}

Start:
  {program} run --config-file {config_quoted}

Let unbound send its answers there (unbound.conf; its user must be able to write to the socket):
  dnstap:
    dnstap-enable: yes
    dnstap-bidirectional: yes
    dnstap-socket-path: "{socket}"
    dnstap-log-client-response-messages: yes

Look at the results, which appear every full minute:
  duckdb -c "from read_parquet('{histograms}/dns_histogram-*.parquet')"
  duckdb -c "from read_parquet('{sessions}/dns_session_block-*.parquet')"
"""


def write_new(path: Path, data: bytes, mode: int, owner: tuple[int, int] | None = None) -> bool:
    """Write a new file, completely or not at all; leave an existing file as it is.

    Parameters
    ----------
    mode : permission bits of the new file.
    owner : numbers of user and group; those of the process if not given.

    Returns
    -------
    bool
        Whether the file was written; False means that it existed.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                if owner is not None:
                    os.fchown(file.fileno(), *owner)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            _publish(part, path)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
    return True


def _publish(part: Path, path: Path) -> None:
    try:
        # Unlike a rename, a link fails if the name exists.
        os.link(part, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP):
            raise
        # A file system without hard links.
        if os.path.lexists(path):
            raise FileExistsError from None
        part.rename(path)


def starter_list() -> bytes:
    """Return the list of well-known domains that comes with the program, as a DAWG file."""
    # Imported here, because the domains stage loads the kernels' compiler.
    from edm.stages.domains import starter_dawg

    return bytes(starter_dawg())


def _directory(path: Path, mode: int) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise OutputError(f"cannot make directory {path}: {error.strerror}") from None


def configuration(folder: Path, socket: Path, data: Path, access: str = _ACCESS) -> str:
    """Return the text of a configuration with a secret of its own, for lists in ``folder``."""
    return _CONFIG.format(
        key=toml_value(secrets.token_urlsafe(KEY_BYTES)),
        salt=toml_value(secrets.token_urlsafe(SALT_BYTES)),
        socket=toml_value(str(socket)),
        access=access,
        data=toml_value(str(data)),
        domains=toml_value(str(folder / DOMAINS_NAME)),
        clients=toml_value(str(folder / CLIENTS_NAME)),
    )


def create(folder: Path) -> Path:
    """Make the directory and its files; return the path of the configuration.

    Raises
    ------
    OutputError
        A configuration exists already, the path is too long for a socket or is not valid text, or a file cannot
        be written.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow the operator's links
    config, socket = folder / CONFIG_NAME, folder / SOCKET_NAME
    if "\0" in str(folder) or not str(folder).isprintable():
        raise OutputError(
            f"the name of directory {str(folder)!r} has characters that no configuration can hold"
        )
    if problem := socket_path_problem(str(socket)):
        raise OutputError(f"{problem}; choose a directory with a shorter path")
    if os.path.lexists(config):
        raise OutputError(f"{config} exists already and is not overwritten; remove it to start anew")
    domains = starter_list()
    _directory(folder, 0o755)
    _directory(folder / DATA_NAME, 0o750)
    text = configuration(folder, socket, folder / DATA_NAME)
    write_new(folder / DOMAINS_NAME, domains, 0o644)
    write_new(folder / CLIENTS_NAME, CLIENTS.encode(), 0o600)
    # The configuration is last, because it marks the directory as complete.
    if not write_new(config, text.encode(), 0o600):
        raise OutputError(f"{config} exists already and is not overwritten; remove it to start anew")
    return config


def _usage_problems(folders: list[str], service: bool, root: Value | None) -> list[str]:
    if service:
        problems = [f"unexpected argument {shorten(name)}: --service knows its places" for name in folders]
        return [*problems, *(["--root needs a folder"] if root == "" else [])]
    problems = [] if folders else ["DIR is missing, or --service"]
    problems += [f"unexpected argument {shorten(name)}" for name in folders[1:]]
    return [*problems, *(["--root has no meaning without --service"] if root is not None else [])]


def run(args: Arguments) -> int:
    """Make the directory, or the files of the service, and print the next steps."""
    root = args.options["root"]
    if problems := _usage_problems(args.positional, bool(args.options["service"]), root):
        raise UsageError(problems)
    if args.options["service"]:
        from edm.cli.init_service import create_service

        print(create_service(str(root or ""), args.program), end="")
        return 0
    config = create(Path(args.positional[0]))
    folder = config.parent
    parquet = folder / DATA_NAME / "parquet"
    print(
        _NEXT.format(
            config=config,
            config_quoted=shlex.quote(str(config)),
            program=args.program,
            socket=folder / SOCKET_NAME,
            histograms=parquet / "histograms" / "outbox",
            sessions=parquet / "sessions",
        ),
        end="",
    )
    return 0
