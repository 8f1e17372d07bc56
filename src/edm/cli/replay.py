"""``edm replay``: send capture files to a running daemon, as a DNS server would."""

from __future__ import annotations

from edm.cli.arguments import Arguments, Option, Spec
from edm.errors import ConfigError

SPEC = Spec(
    positional="FILE...",
    options=(
        Option("unix", "Path of the receiver's Unix socket."),
        Option("tcp", "HOST:PORT of the receiver."),
    ),
    config=False,
    about="Send dnstap captures (Frame Streams files, plain, gzip or Zstandard) over one connection to a "
    "receiver that listens on a Unix socket or a TCP address.",
)


def run(args: Arguments) -> int:
    """Replay the files; returns 0 when the receiver has confirmed that it read everything."""
    unix, tcp = str(args.options["unix"] or ""), str(args.options["tcp"] or "")
    if bool(unix) == bool(tcp):
        raise ConfigError("give the receiver with either --unix PATH or --tcp HOST:PORT")
    from edm.captures.reading import open_all
    from edm.captures.replay import connect, replay

    captures = open_all(args.positional)
    try:
        with connect(unix, tcp) as sock:
            sent = replay(captures, sock)
    finally:
        for capture in captures:
            capture.close()
    print(f"sent {sent:,} frames")
    return 0
