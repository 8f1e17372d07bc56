from __future__ import annotations

import io
import json
import logging
import platform
import re
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from edm import __version__
from edm.observe import logs
from edm.observe.privacy import PrivacyFilter

Lines = Callable[[], list[dict[str, Any]]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def lines() -> Lines:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_the_go_daemons_fields_first(lines: Lines) -> None:
    structlog.get_logger().info("rotated", rows=7, nested={"a": [1, None]})
    (line,) = lines()
    assert list(line) == [
        "time", "level", "msg", "service", "hostname", "go_version", "version", "rows", "nested",
    ]  # fmt: skip
    assert line["level"] == "INFO"
    assert line["msg"] == "rotated"
    assert line["service"] == "dnstapir-edm"
    assert line["hostname"] == socket.gethostname()
    assert line["go_version"] == f"python{platform.python_version()}"
    assert line["version"] == __version__
    assert line["rows"] == 7
    assert line["nested"] == {"a": [1, None]}
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - datetime.now().timestamp()) < 60


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000 * 10**9))
def test_timestamp_is_rfc3339_with_nanoseconds(ns: int) -> None:
    text = logs.timestamp(ns)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)", text)
    whole = datetime.fromisoformat(re.sub(r"\.\d{9}", "", text))
    assert int(whole.timestamp()) == ns // 10**9
    assert text[20:29] == f"{ns % 10**9:09d}"


def test_levels(lines: Lines) -> None:
    log = structlog.get_logger()
    log.debug("hidden unless debugging")
    for method in ("info", "warning", "error", "critical"):
        getattr(log, method)(method)
    assert [(line["msg"], line["level"]) for line in lines()] == [
        ("info", "INFO"),
        ("warning", "WARN"),
        ("error", "ERROR"),
        ("critical", "ERROR"),
    ]


def test_debug_and_auto_format() -> None:
    stream = io.StringIO()
    logs.configure("auto", debug=True, stream=stream)
    structlog.get_logger().debug("seen")
    assert json.loads(stream.getvalue())["level"] == "DEBUG"


def test_auto_is_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    logs.configure("auto", stream=stream)
    structlog.get_logger().warning("bad frame", client="192.0.2.1", reason="a\x1b[2Jb")
    text = stream.getvalue()
    assert "bad frame" in text
    assert "\x1b[" in text  # coloured ...
    assert "\x1b[2J" not in text  # ... but not by what came from outside
    assert "192.0.2.1" not in text
    with pytest.raises(ValueError):
        json.loads(text)


def test_text_without_a_terminal_has_no_colours() -> None:
    stream = io.StringIO()
    logs.configure("text", stream=stream)
    structlog.get_logger().info("started", workers=2)
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[info +\] started +workers=2\n", stream.getvalue())


@pytest.mark.parametrize("format", ["json", "text"])
def test_exceptions_are_logged_without_addresses_or_variables(format: logs.Format) -> None:
    stream = io.StringIO()
    logs.configure(format, stream=stream)
    address = b"\xc0\x00\x02\x01"
    try:
        local = "".join(["secret", " local"])
        raise ValueError("no room for 2001:db8::1", address, len(local))
    except ValueError:
        structlog.get_logger().exception("lost 192.0.2.1", raw=address)
    text = stream.getvalue()
    assert "Traceback" in text
    assert "no room for <address>" in text
    assert "2001:db8" not in text
    assert "192.0.2.1" not in text
    assert "\\xc0" not in text.replace("\\\\", "\\").split("ValueError")[-1]
    assert "secret local" not in text  # the source line, but no dump of variables


def test_operator_addresses_pass_and_fields_cannot_pose(lines: Lines) -> None:
    structlog.get_logger().info("listening", address="127.0.0.1:6000", level="x", hostname="y")
    (line,) = lines()
    assert line["address"] == "127.0.0.1:6000"
    assert line["level"] == "INFO"
    assert line["level_"] == "x"
    assert line["hostname"] == socket.gethostname()
    assert line["hostname_"] == "y"


def test_own_filter() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream, privacy=PrivacyFilter(allowed=["upstream"]))
    structlog.get_logger().info("x", upstream="192.0.2.1", address="192.0.2.1")
    line = json.loads(stream.getvalue())
    assert line["upstream"] == "192.0.2.1"
    assert line["address"] == "<address>"


def test_standard_logging_takes_the_same_way(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").warning("lost %s", "192.0.2.1")
    try:
        raise OSError("fe80::1 is away")
    except OSError:
        logging.getLogger("paho").exception("broken")
    logging.getLogger("paho").debug("not shown")
    first, second = lines()
    assert (first["msg"], first["level"], first["logger"]) == ("lost <address>", "WARN", "uvicorn.error")
    assert second["level"] == "ERROR"
    assert "OSError: <address> is away" in second["exception"]


def test_configuring_again_replaces(lines: Lines) -> None:
    again = io.StringIO()
    logs.configure("json", stream=again)
    logging.getLogger("x").warning("once")
    structlog.get_logger().warning("once more")
    assert lines() == []
    assert len(again.getvalue().splitlines()) == 2


def test_what_json_cannot_hold(lines: Lines) -> None:
    structlog.get_logger().info("odd", nan=float("nan"), path="caf\xe9\udc80\n")
    (line,) = lines()
    assert line["nan"] == "nan"
    assert line["path"] == "caf\xe9\udc80\n"


def test_stream_that_is_gone_or_narrow_harms_nobody() -> None:
    closed = io.StringIO()
    logs.configure("json", stream=closed)
    closed.close()
    structlog.get_logger().error("nobody hears")
    raw = io.BytesIO()
    logs.configure("text", stream=io.TextIOWrapper(raw, encoding="ascii"))
    structlog.get_logger().error("caf\xe9")
    assert b"caf\\xe9" in raw.getvalue()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def limited(**options: Any) -> tuple[logs.RateLimited, list[Any], Clock, list[int]]:
    clock, suppressed = Clock(), []
    capture = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(None, processors=[capture])
    limiter = logs.RateLimited(logger, clock=clock, on_suppressed=suppressed.append, **options)
    return limiter, capture.entries, clock, suppressed


def test_first_lines_then_one_per_interval_with_the_count() -> None:
    limiter, entries, clock, suppressed = limited(burst=2, interval=10.0)
    for _ in range(5):
        limiter.warning("malformed frame", count=17, reason="truncated")
    assert [e["count"] for e in entries] == [17, 17]
    assert suppressed == [17, 17, 17]
    clock.now = 9.9
    limiter.warning("malformed frame", count=1)
    assert len(entries) == 2
    clock.now = 10.0
    limiter.warning("malformed frame", count=3, reason="too long")
    assert entries[2] == {
        "event": "malformed frame",
        "log_level": "warning",
        "count": 3,
        "reason": "too long",
        "suppressed": 52,
    }
    limiter.warning("malformed frame")
    assert len(entries) == 3


def test_quiet_time_gives_the_burst_back_but_no_more() -> None:
    limiter, entries, clock, _ = limited(burst=3, interval=1.0)
    clock.now = 1000.0
    for _ in range(10):
        limiter.error("e")
    assert len(entries) == 3
    clock.now = 2000.0
    for _ in range(10):
        limiter.error("e")
    assert len(entries) == 6


def test_events_have_budgets_of_their_own_and_fields_do_not() -> None:
    limiter, entries, _, _ = limited(burst=1)
    limiter.warning("a", reason="one")
    limiter.warning("a", reason="two")
    limiter.info("b")
    limiter.warning("a", count=0)
    assert [e["event"] for e in entries] == ["a", "b"]


def test_number_of_budgets_is_bounded() -> None:
    limiter, entries, _, suppressed = limited(burst=1)
    for k in range(5000):
        limiter.warning(f"not a literal {k}")
    assert len(entries) < 1100
    assert len(entries) + sum(suppressed) == 5000


def test_flush_tells_what_is_left() -> None:
    limiter, entries, _, _ = limited(burst=1)
    limiter.error("a", count=2)
    limiter.error("a", count=5, reason="r")
    limiter.flush()
    limiter.flush()
    assert entries[1:] == [{"event": "a", "log_level": "error", "suppressed": 5, "reason": "r"}]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 100)), max_size=200),
    st.integers(1, 4),
    st.floats(0.5, 10),
)
def test_nothing_is_lost_and_the_rate_holds(
    steps: list[tuple[float, int]], burst: int, interval: float
) -> None:
    limiter, entries, clock, suppressed = limited(burst=burst, interval=interval)
    for pause, count in steps:
        clock.now += pause
        limiter.warning("e", count=count)
    assert len(entries) <= burst + clock.now / interval + 1e-6
    limiter.flush()
    told = sum(e.get("count", 0) + e.get("suppressed", 0) for e in entries)
    assert told == sum(count for _, count in steps)
    assert sum(suppressed) == sum(e.get("suppressed", 0) for e in entries)


def test_many_threads_lose_no_count() -> None:
    limiter, entries, _, suppressed = limited(burst=3, interval=1.0)

    def work() -> None:
        for _ in range(200):
            limiter.warning("e", count=2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries) == 3
    assert sum(e["count"] for e in entries) + sum(suppressed) == 1600


@pytest.mark.parametrize("options", [{"burst": 0}, {"interval": 0.0}])
def test_senseless_limits_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="burst must be at least 1"):
        logs.RateLimited(None, **options)
