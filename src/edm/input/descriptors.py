"""The limit of open files: raised for the connections, and a bound on connections if it cannot be raised."""

from __future__ import annotations

import resource

SPARE = 256
"""Open files kept for everything but dnstap connections: files, databases, HTTP, the connections to Core."""


def room_for_connections(wanted: int) -> int:
    """Raise the process's limit of open files as far as needed; return how many connections it allows.

    Parameters
    ----------
    wanted : int
        Most connections at the same time.

    Returns
    -------
    int
        ``wanted``, or fewer (but at least 1) if the system's hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - SPARE))


__all__ = ["SPARE", "room_for_connections"]
