"""``edm replay``: send capture files to a running daemon, as a DNS server would."""

from __future__ import annotations

import sys

from edm.cli.arguments import Arguments, Option, Spec
from edm.errors import ConfigError, InputError
from edm.files.visible import visible

SPEC = Spec(
    positional="FILE...",
    options=(
        Option("unix", "Path of the receiver's Unix socket."),
        Option("tcp", "HOST:PORT of the receiver."),
        Option("yes", "Send also to a receiver that has other senders.", kind="bool", default=False),
    ),
    config=False,
    about="Send dnstap captures (Frame Streams files, plain, gzip or Zstandard) over one connection to a "
    "receiver that listens on a Unix socket or a TCP address. The receiver stores the frames like the traffic of a "
    "DNS server. So if it has other senders, or if that is not known, you are asked first; without a terminal "
    "nothing is sent then, unless --yes is given.",
)


def _confirm(receiver: str, others: int | None) -> None:
    """Ask whether to send to a receiver that may have real senders.

    Raises
    ------
    InputError
        The answer is not yes, or there is no terminal to ask at.
    """
    if others == 0:
        return
    found = (
        "may have other senders"
        if others is None
        else f"has {others} other sender{'s' if others > 1 else ''}"
    )
    what = f"{visible(receiver)} {found}: what is replayed ends up in the same files as their traffic"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"{what}; nothing was sent. --yes sends it all the same")
    print(f"{what}.\nSend it all the same? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was sent")


def run(args: Arguments) -> int:
    """Replay the files; return 0 when the receiver has confirmed that it read everything."""
    unix, tcp = str(args.options["unix"] or ""), str(args.options["tcp"] or "")
    if bool(unix) == bool(tcp):
        raise ConfigError("give the receiver with either --unix PATH or --tcp HOST:PORT")
    from edm.captures.reading import open_all
    from edm.captures.replay import connect, replay
    from edm.captures.senders import tcp_senders, unix_senders

    captures = open_all(args.positional)
    # Counted before this command's own connection is made.
    others = unix_senders(unix) if unix else 0
    try:
        with connect(unix, tcp) as sock:
            if not args.options["yes"]:
                _confirm(unix or tcp, others if unix else tcp_senders(sock))
            sent = replay(captures, sock)
    finally:
        for capture in captures:
            capture.close()
    print(f"sent {sent:,} frames")
    return 0
