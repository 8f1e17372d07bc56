"""Logs: JSON lines with the fields of the Go daemon (Go's ``log/slog``), or readable text on a terminal.

Modules log with ``structlog.get_logger()``; records of the standard ``logging`` (the web server, the MQTT
client) take the same path. Every line passes the privacy filter. Errors that a peer can cause at any rate are
logged through :class:`RateLimited`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

from edm import __version__
from edm.files.visible import visible, visible_json
from edm.observe.log_writer import LineWriter
from edm.observe.privacy import PrivacyFilter

Format = Literal["auto", "json", "text"]

SERVICE = "dnstapir-edm"
_LEVELS = {"warning": "WARN", "critical": "ERROR", "exception": "ERROR", "fatal": "ERROR", "notset": "DEBUG"}
_MAX_KEYS = 1024

FLUSH_SECONDS = 2.0
"""Seconds that the program waits at exit for the last log lines to be written."""

Event = MutableMapping[str, Any]


def timestamp(ns: int) -> str:
    """Return a time in nanoseconds since 1970 as RFC 3339 with nine decimals in the local time zone."""
    local = datetime.fromtimestamp(ns // 1_000_000_000).astimezone()
    zone = local.strftime("%z")
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:5]}"
    return f"{local:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}{zone}"


def _level_of(method: str) -> str:
    return _LEVELS.get(method, method.upper())


class _SlogFields:
    """Processor that puts the Go daemon's fixed fields first, then the event's own fields."""

    def __init__(self) -> None:
        self.constant = {
            "service": SERVICE,
            "hostname": socket.gethostname(),
            "go_version": f"python{platform.python_version()}",
            "version": __version__,
        }

    def __call__(self, _logger: Any, method: str, event: Event) -> Event:
        fields: Event = {
            "time": timestamp(time.time_ns()),
            "level": _level_of(method),
            "msg": event.pop("event", ""),
        }
        fields.update(self.constant)
        for key, value in event.items():
            # A field of the event must not replace a fixed field.
            fields[f"{key}_" if key in fields else key] = value
        return fields


def _to_json(_logger: Any, _method: str, event: Event) -> str:
    try:
        line = json.dumps(event, allow_nan=False, default=repr)
    except ValueError:  # NaN, infinity or a circular structure: JSON has no form for it
        line = json.dumps(
            {key: value if isinstance(value, str) else repr(value) for key, value in event.items()}
        )
    return visible_json(line)


def _text_head(_logger: Any, method: str, event: Event) -> Event:
    for key, value in event.items():
        # Text from a peer must not send control characters to the terminal.
        if isinstance(value, str):
            event[key] = visible(value, lines=key in ("exception", "stack"))
    event["timestamp"] = time.strftime("%H:%M:%S")
    event["level"] = "warning" if method == "warn" else method
    return event


class _Output:
    """Writes lines to a stream; a closed or broken stream must not end a worker."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lock = threading.Lock()

    def msg(self, line: str) -> None:
        # One write for line and line break; otherwise lines of two processes on one pipe would mix.
        try:
            with self.lock:
                try:
                    self.stream.write(line + "\n")
                except UnicodeEncodeError:
                    self.stream.write(line.encode("ascii", "backslashreplace").decode("ascii") + "\n")
                self.stream.flush()
        except (OSError, ValueError):
            pass

    log = debug = info = warn = warning = error = critical = fatal = exception = failure = err = msg


class _Bridge(logging.Handler):
    """Passes records of the standard logging to structlog; warnings and errors are rate-limited."""

    def __init__(self) -> None:
        super().__init__()
        self._limited = RateLimited(None)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # wrong arguments in a library's log call
            message = str(record.msg)
        logger = structlog.get_logger().bind(logger=record.name)
        exc_info: dict[str, Any] = (
            {"exc_info": record.exc_info} if record.exc_info and record.exc_info[0] else {}
        )
        if record.levelno < logging.WARNING:
            method = logger.info if record.levelno >= logging.INFO else logger.debug
            method(message, **exc_info)
            return
        suppressed = self._limited.take(f"{record.name}: {record.msg}")
        if suppressed is None:
            return
        more: dict[str, Any] = {"suppressed": suppressed} if suppressed else {}
        method = logger.error if record.levelno >= logging.ERROR else logger.warning
        method(message, **exc_info, **more)


def configure(
    format: Format = "auto",
    debug: bool = False,
    stream: TextIO | None = None,
    privacy: PrivacyFilter | None = None,
    background: bool = False,
) -> None:
    """Set up logging for the process; a later call replaces this configuration.

    Parameters
    ----------
    format : {"auto", "json", "text"}
        ``auto`` is text if ``stream`` is a terminal and JSON otherwise.
    debug : bool
        Log from DEBUG on instead of INFO.
    stream : text file, optional
        Standard error if not given.
    privacy : PrivacyFilter, optional
        The filter for all lines; by default one with :data:`edm.observe.privacy.OPERATOR_KEYS`.
    background : bool
        Never block on the stream: a thread writes the lines, and lines beyond its queue are dropped and counted
        (:func:`dropped_lines`). The caller then has to call :func:`flush` at exit.
    """
    global _writer
    if stream is None:
        stream = sys.stderr
    terminal = stream.isatty()
    level = logging.DEBUG if debug else logging.INFO
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.StackInfoRenderer(),
        # Exceptions become text (without local variables) before the filter, so that the filter sees all of it.
        structlog.processors.format_exc_info,
        privacy or PrivacyFilter(),
    ]
    if format == "json" or (format == "auto" and not terminal):
        processors += [_SlogFields(), _to_json]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=terminal and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
        )
        processors += [_text_head, renderer]
    output: _Output | LineWriter = LineWriter(stream, _tell_dropped) if background else _Output(stream)
    _writer = output if isinstance(output, LineWriter) else None
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(level)
    logging.captureWarnings(True)
    if background:
        _log_what_nobody_caught()


_writer: LineWriter | None = None


def dropped_lines() -> int:
    """Return the number of lines dropped because nobody read the log."""
    return _writer.dropped if _writer is not None else 0


def flush(timeout: float) -> bool:
    """Wait at most ``timeout`` seconds until all lines are written; return whether they are."""
    return _writer is None or _writer.flush(timeout)


def _tell_dropped(lines: int) -> None:
    structlog.get_logger().warning("log lines were dropped, since nobody read the log", dropped=lines)


def _log_what_nobody_caught() -> None:
    """Log uncaught exceptions; the interpreter's own output to standard error could block."""

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, SystemExit) and args.exc_value is not None:
            name = args.thread.name if args.thread is not None else ""
            structlog.get_logger().error("a thread failed", thread=name, exc_info=args.exc_value)

    def unraisable(args: Any) -> None:
        structlog.get_logger().error("an exception that nothing could catch", exc_info=args.exc_value)

    def in_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        structlog.get_logger().critical("the program failed", exc_info=error)
        flush(FLUSH_SECONDS)

    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    sys.excepthook = in_main


class _Bucket:
    __slots__ = ("fields", "level", "suppressed", "tokens", "updated")

    def __init__(self, tokens: float, now: float) -> None:
        self.tokens = tokens
        self.updated = now
        self.suppressed = 0
        self.level = "warning"
        self.fields: dict[str, Any] = {}


class RateLimited:
    """A logger for errors that a peer can cause at any rate: a few lines, then one per interval with a count.

    Each message has its own budget and therefore must be a literal. Fields do not count, so text from the stream
    cannot open a new budget. It never sleeps; any thread may call it.

    Parameters
    ----------
    logger : structlog logger
    burst : int
        Lines of one event that may be logged at once.
    interval : float
        Seconds after which one more line may be logged.
    clock : callable
        Monotonic seconds.
    on_suppressed : callable, optional
        Called with the number of errors that were just not logged (``metrics.count_suppressed``).

    Attributes
    ----------
    last : tuple[float, str] or None
        When the last warning or error happened (seconds since 1970), and its text, also if it was not logged.
    """

    def __init__(
        self,
        logger: Any,
        burst: int = 5,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        on_suppressed: Callable[[int], None] | None = None,
    ) -> None:
        if burst < 1 or interval <= 0:
            raise ValueError("burst must be at least 1 and interval positive")
        self._logger = logger
        self._burst = burst
        self._interval = interval
        self._clock = clock
        self._on_suppressed = on_suppressed
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()
        self.last: tuple[float, str] | None = None

    def info(self, event: str, count: int = 1, **fields: Any) -> None:
        """Log at INFO that ``event`` happened ``count`` times, if the limit allows."""
        self._log("info", event, count, fields)

    def warning(self, event: str, count: int = 1, **fields: Any) -> None:
        """Log at WARN that ``event`` happened ``count`` times, if the limit allows."""
        self._remember(event, count, fields)
        self._log("warning", event, count, fields)

    def error(self, event: str, count: int = 1, **fields: Any) -> None:
        """Log at ERROR that ``event`` happened ``count`` times, if the limit allows."""
        self._remember(event, count, fields)
        self._log("error", event, count, fields)

    def take(self, event: str) -> int | None:
        """Count ``event``; return the number suppressed before if the caller may log now, else None."""
        with self._lock:
            return self._take("warning", event, 1, {})

    def flush(self) -> None:
        """Log one line for each event that has suppressed errors not yet reported.

        The owner calls it periodically and at shutdown; these lines do not use the budget.
        """
        with self._lock:
            waiting = [(event, b, b.suppressed) for event, b in self._buckets.items() if b.suppressed]
            for _, bucket, _ in waiting:
                bucket.suppressed = 0
        for event, bucket, suppressed in waiting:
            getattr(self._logger, bucket.level)(event, suppressed=suppressed, **bucket.fields)

    def _remember(self, event: str, count: int, fields: dict[str, Any]) -> None:
        if count > 0:
            reason = fields.get("reason")
            self.last = time.time(), f"{event}: {reason}" if reason else event

    def _log(self, level: str, event: str, count: int, fields: dict[str, Any]) -> None:
        if count <= 0:
            return
        with self._lock:
            suppressed = self._take(level, event, count, fields)
        if suppressed is None:
            if self._on_suppressed is not None:
                self._on_suppressed(count)
            return
        if suppressed:
            fields["suppressed"] = suppressed
        # Outside the lock: the stream may block.
        getattr(self._logger, level)(event, count=count, **fields)

    def _take(self, level: str, event: str, count: int, fields: dict[str, Any]) -> int | None:
        """Return the number suppressed before if a line may be logged, else None."""
        now = self._clock()
        if event not in self._buckets and len(self._buckets) >= _MAX_KEYS:
            event = ""  # too many messages, so they are not literals: the rest share one budget
        bucket = self._buckets.get(event)
        if bucket is None:
            bucket = self._buckets[event] = _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.updated) / self._interval)
        bucket.updated = now
        bucket.level = level
        bucket.fields = fields
        if bucket.tokens < 1:
            bucket.suppressed += count
            return None
        bucket.tokens -= 1
        suppressed = bucket.suppressed
        bucket.suppressed = 0
        return suppressed


__all__ = [
    "FLUSH_SECONDS",
    "SERVICE",
    "Format",
    "RateLimited",
    "configure",
    "dropped_lines",
    "flush",
    "timestamp",
]
