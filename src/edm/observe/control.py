"""The control socket: questions to a running daemon from its own machine, about what no page may show.

A Unix socket in the data directory, mode 0600. One question per connection: a line of JSON, an object with the name of
the question in ``ask``. The answer is a line too: ``{"answer": {...}}`` or ``{"error": "..."}``. The daemon's user
and root may ask. Questions are answered one after the other, and leave nothing in the log.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from edm.errors import EdmError
from edm.files.visible import visible
from edm.observe.privacy import redact

SOCKET_NAME = ".control.sock"
MODE = 0o600
QUESTION_MAX = 64 << 10
"""Longest question, bytes."""
ANSWER_MAX = 16 << 20
PATIENCE = 5.0
"""Seconds in which a question must have come, and an answer must have been taken."""

_BACKLOG = 16
_PIECE = 1 << 16
_CREDENTIALS = struct.Struct("3i")

Answer: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Answers a question; what an asker can do wrong is an :class:`EdmError`."""


class NoControlError(EdmError):
    """No daemon answers at the control socket."""


class RefusedError(EdmError):
    """The daemon has answered with an error."""


@contextmanager
def _folder(path: Path) -> Iterator[str]:
    """Open a folder and give a short path to it: that of a socket may have only 107 bytes."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _user_of(sock: socket.socket) -> int:
    """Return the user of the process at the other end, as the system tells it (unix(7), SO_PEERCRED)."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def _receive_line(sock: socket.socket, most: int, deadline: float) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        piece = sock.recv(_PIECE)
        if not piece or len(line) + len(piece) > most:
            raise ValueError
        line += piece
    return bytes(line)


class ControlServer:
    """Answers questions from a thread of its own.

    Parameters
    ----------
    folder : Path
        The data directory; its lock must be held, so that a socket found there is a stale one.
    answers : mapping
        The questions, and what answers them.
    users : set of int, optional
        Who may ask; the user of this process and root if not given.
    """

    def __init__(
        self, folder: Path, answers: Mapping[str, Answer], users: frozenset[int] | None = None
    ) -> None:
        self.path = folder / SOCKET_NAME
        self._answers = answers
        self._users = frozenset((0, os.geteuid())) if users is None else users
        self._log = structlog.get_logger("edm.control")
        self._socket: socket.socket | None = None
        self._file: tuple[int, int] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="edm-control", daemon=True)

    def start(self) -> bool:
        """Make the socket and begin; return whether that worked. The daemon does without it: a failure is logged."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                self.path.unlink()  # a stale socket, or a link that somebody put here: not what it leads to
            # The file gets the mode that the socket has by now, so nobody else can connect at any moment.
            os.fchmod(sock.fileno(), MODE)
            with _folder(self.path.parent) as folder:
                sock.bind(f"{folder}/{SOCKET_NAME}")
            found = self.path.lstat()
            self._file = found.st_dev, found.st_ino
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            self._log.error("cannot make the control socket", path=str(self.path), reason=error.strerror)
            return False
        self._socket = sock
        self._thread.start()
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """End, and remove the socket's file if it is still ours. Calling it twice, or before start, is allowed."""
        self._stopping.set()
        if self._socket is None:
            return
        self._thread.join(timeout)
        self._socket.close()
        self._socket = None
        with suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._file:
                self.path.unlink()

    def _serve(self) -> None:
        sock = self._socket
        assert sock is not None
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while not self._stopping.is_set():
            if not poll.poll(200):
                continue
            try:
                connection, _ = sock.accept()
            except OSError:
                self._stopping.wait(0.2)
                continue
            with connection, suppress(OSError):
                self._meet(connection)

    def _meet(self, connection: socket.socket) -> None:
        if _user_of(connection) not in self._users:
            # Read before the answer: what is unread when a socket is closed takes the answer with it.
            with suppress(ValueError, OSError):
                _receive_line(connection, QUESTION_MAX, time.monotonic() + PATIENCE)
            reply: dict[str, Any] = {"error": "only root and the user that runs the daemon may ask it"}
        else:
            try:
                question = json.loads(_receive_line(connection, QUESTION_MAX, time.monotonic() + PATIENCE))
            except (ValueError, RecursionError):
                question = None
            reply = self._reply(question)
        connection.settimeout(PATIENCE)
        connection.sendall(json.dumps(reply).encode() + b"\n")

    def _reply(self, question: object) -> dict[str, Any]:
        kind = question.get("ask") if isinstance(question, dict) else None
        answer = self._answers.get(kind) if isinstance(kind, str) else None
        if answer is None or not isinstance(question, dict):
            return {"error": f"no such question; there are: {', '.join(sorted(self._answers))}"}
        try:
            return {"answer": answer(question)}
        except EdmError as error:
            return {"error": redact(str(error))}
        except Exception as error:
            # Without traceback and text, which may hold what was asked for.
            self._log.error(
                "a question on the control socket failed", question=kind, fault=type(error).__name__
            )
            return {"error": f"a fault in the program ({type(error).__name__})"}


def ask(folder: Path, question: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
    """Ask the daemon that uses the data directory ``folder``; wait at most ``timeout`` seconds.

    Raises
    ------
    NoControlError
        There is no control socket, nobody answers there, or it may be by somebody else than the daemon.
    RefusedError
        The daemon has answered with an error.
    """
    path = folder / SOCKET_NAME
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, _folder(folder) as short:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise NoControlError(f"{path}: is no socket")
            deadline = time.monotonic() + timeout
            sock.settimeout(timeout)
            sock.connect(f"{short}/{SOCKET_NAME}")
            if _user_of(sock) not in (0, os.geteuid(), folder.stat().st_uid):
                raise NoControlError(f"{path}: belongs to a process that need not be the daemon")
            sock.sendall(json.dumps(question).encode() + b"\n")
            reply = json.loads(_receive_line(sock, ANSWER_MAX, deadline))
    except FileNotFoundError:
        raise NoControlError(
            f"no daemon with a control socket runs with the data directory {folder}"
        ) from None
    except TimeoutError:
        raise NoControlError(f"{path}: no answer within {timeout:g} seconds") from None
    except OSError as error:
        raise NoControlError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise NoControlError(f"{path}: closed without an answer") from None
    if not isinstance(reply, dict) or not isinstance(reply.get("answer"), dict):
        text = reply.get("error") if isinstance(reply, dict) else None
        raise RefusedError(f"the daemon says: {visible(text or 'nothing that can be read')}")
    answer: dict[str, Any] = reply["answer"]
    return answer


__all__ = ["MODE", "SOCKET_NAME", "Answer", "ControlServer", "NoControlError", "RefusedError", "ask"]
