"""Counting the other senders connected to a receiver on this machine, from /proc/net (proc(5), proc_net(5))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/net")
_UNIX_LISTENS = 0x10000  # __SO_ACCEPTCON
_UNIX_CONNECTED = "03"
_TCP_ESTABLISHED, _TCP_LISTENS = "01", "0A"


def unix_senders(path: str) -> int | None:
    """Return how many senders are connected to the Unix socket ``path``; None if no process here listens.

    "Here" is the network namespace of this process.
    """
    wanted = os.path.realpath(path)
    listens, connected = False, 0
    for line in _lines("unix"):
        fields = line.split(maxsplit=7)
        # A relative path depends on the receiver's working folder, so its listener is not found.
        if len(fields) == 8 and os.path.realpath(fields[7]) == wanted:
            listens |= bool(int(fields[3], 16) & _UNIX_LISTENS)
            connected += fields[5] == _UNIX_CONNECTED
    return connected if listens else None


def tcp_senders(sock: socket.socket) -> int | None:
    """Return how many connections besides ``sock`` there are to the address that it is connected to.

    Parameters
    ----------
    sock : socket
        A connected TCP socket.

    Returns
    -------
    int or None
        None if no process listens at that port in this network namespace: the receiver is on another machine.
    """
    try:
        port, mine = f"{sock.getpeername()[1]:04X}", f"{sock.getsockname()[1]:04X}"
    except OSError:  # it has closed the connection already
        return 0
    listens, connected = False, 0
    for name in ("tcp", "tcp6"):
        for line in _lines(name):
            fields = line.split()
            if fields[1].rpartition(":")[2] != port:
                continue
            listens |= fields[3] == _TCP_LISTENS
            connected += fields[3] == _TCP_ESTABLISHED and fields[2].rpartition(":")[2] != mine
    return connected if listens and _is_local(sock) else None


def _is_local(sock: socket.socket) -> bool:
    # A connection within the machine has the same address at both ends, or one of the loopback network.
    here, there = sock.getsockname()[0], sock.getpeername()[0]
    return bool(here == there) or str(there).startswith("127.")


def _lines(name: str) -> Iterator[str]:
    try:
        text = (_PROC / name).read_text("utf-8", "surrogateescape")
    except OSError:
        return
    yield from text.splitlines()[1:]


__all__ = ["tcp_senders", "unix_senders"]
