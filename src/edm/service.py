"""Messages to the service manager: ready, reloading, stopping, alive. The protocol is that of sd_notify(3).

Without ``NOTIFY_SOCKET`` in the environment nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

_SEND_SECONDS = 5.0


class ServiceManager:
    """Sends messages to the service manager over a datagram socket; any thread may.

    Parameters
    ----------
    environ : mapping
        ``NOTIFY_SOCKET`` is the path of the socket, or ``@`` and its name if it is an abstract one;
        ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` ask for signs of life.
    clock : callable
        Seconds of the monotonic clock.
    """

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._stopping = False
        self._failed = False
        # Twice as often as asked for, as sd_watchdog_enabled(3) advises.
        self.interval = _watchdog(environ) / 2 if self._address else float("inf")
        """Seconds between two signs of life; infinite if none are asked for."""
        self._next = clock() + self.interval

    def ready(self, status: str) -> None:
        """Say that the start or a reload is done; ``status`` is a line for the operator."""
        self._tell("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Send ``status``, a line for the operator."""
        self._tell(f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload begins; :meth:`ready` ends it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=reloading")

    def stopping(self) -> None:
        """Say that the service stops; later messages are not sent."""
        self._tell("STOPPING=1", "STATUS=stopping")
        self._stopping = True

    def alive(self) -> None:
        """Send a sign of life if one is due. The caller must be the loop whose hanging is to be noticed."""
        if self._clock() >= self._next:
            self._next = self._clock() + self.interval
            self._tell("WATCHDOG=1")

    def _tell(self, *variables: str) -> None:
        if not self._address or self._stopping:
            return
        message = "\n".join(variable.replace("\n", " ") for variable in variables)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SEND_SECONDS)
                sock.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            if not self._failed:
                structlog.get_logger().warning("cannot talk to the service manager", reason=error.strerror)
            self._failed = True


def _address(path: str) -> str:
    if path.startswith("@"):
        return "\0" + path[1:]
    return path if path.startswith("/") else ""  # others (vsock) are for virtual machines


def _watchdog(environ: Mapping[str, str]) -> float:
    """Return the seconds within which this process must send a sign of life; infinite if it need not."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else float("inf")


__all__ = ["ServiceManager"]
