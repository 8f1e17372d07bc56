"""The views of ``edm top``: turn a status document into terminal output. Text from outside is never read as markup."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from edm.files.visible import visible

VIEWS = ("overview", "senders", "work", "output", "history")
"""Names of the views, in the order of their keys 1 to 5."""

SORTS: tuple[tuple[str, Callable[[dict[str, Any]], Any]], ...] = (
    ("frames per second", lambda s: -s["frames_per_second"]),
    ("frames", lambda s: -s["frames"]),
    ("bytes", lambda s: -s["bytes"]),
    ("time it had to wait", lambda s: -s["blocked_seconds"]),
    ("last frame, oldest first", lambda s: s["last_frame"] or 0.0),
    ("identity", lambda s: s["identity"]),
)
"""Orders in which senders can be listed."""

_STYLES = {"ok": "bold green", "degraded": "bold yellow", "failing": "bold red"}
_SEVERITIES = {"error": "bold red", "warning": "yellow", "info": "dim"}
_UNKNOWN = "not known"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number as text, with separators."""
    return _UNKNOWN if value is None else f"{value:,.{digits}f}"


def size(value: float | None) -> str:
    """Return a number of bytes as text, with a unit."""
    if value is None:
        return _UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:,.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def span(seconds: float | None) -> str:
    """Return a duration as text, with a unit."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def clock(moment: float | None) -> str:
    """Return a time (seconds since 1970) as the local time of day."""
    return "never" if not moment else time.strftime("%H:%M:%S", time.localtime(moment))


def text(value: object, style: str = "") -> Text:
    """Return a text that cannot control the terminal."""
    return Text(visible(value), style, overflow="ellipsis")


def bar(share: float, width: int = 10) -> Text:
    """Return a share from 0 to 1 as a bar."""
    share = min(1.0, max(0.0, share))
    style = "red" if share > 0.9 else "yellow" if share > 0.7 else "green"
    full = round(share * width)
    return Text("━" * full, style) + Text("─" * (width - full), "dim") + Text(f" {100 * share:3.0f}%")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> Group:
    """Return a table below its title. The first ``left`` columns are left-aligned, the others (numbers) right-aligned.

    If all column names are empty there is no line of names. A table without rows shows a word instead.
    """
    made = Table(box=None, padding=(0, 1, 0, 0), show_header=any(columns))
    for i, column in enumerate(columns):
        made.add_column(
            column,
            header_style="dim",
            justify="left" if i < left else "right",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else text(cell) for cell in row))
    return Group(Text(title, "bold", no_wrap=True), made if made.row_count else text("none", "dim"))


def header(status: dict[str, Any], view: str, problem: str = "") -> RenderableType:
    """Return the lines at the top of each view: which daemon, its state, and its problems."""
    program, health, frames = status["program"] or {}, status["health"] or {}, status["frames"] or {}
    first = Text.assemble(
        ("EDM ", "bold"),
        visible(program.get("host", "")),
        (f"  {visible(program.get('version', ''))}  up {span(program.get('uptime_seconds'))}  ", "dim"),
        f"{number(frames.get('per_second'))} frames/s  {number(frames.get('total'))} in all  ",
        (f"{number(frames.get('lost'))} lost", "bold red" if frames.get("lost") else "dim"),
    )
    state = str(health.get("state", ""))
    lines = [first, text(health.get("summary", ""), _STYLES.get(state, ""))]
    if problem:
        lines.insert(1, text(f"{problem}; the numbers are of {clock(status['time'])}", "bold red"))
    for finding in health.get("findings", [])[1:4]:
        lines.append(
            text(f"{finding['severity']}: {finding['what']}", _SEVERITIES.get(finding["severity"], ""))
        )
    if health.get("findings"):
        lines.append(text(f"what to do: {health['findings'][0]['do']}", "italic"))
    for line in lines:
        line.no_wrap = True
        line.overflow = "ellipsis"
    return Group(*lines, Rule(view, style="dim", align="left"))


def _fates(status: dict[str, Any], most: int = 8) -> Group:
    frames = status["frames"]
    used = sorted(((n, f) for f, n in frames["fates"].items() if n), reverse=True)[:most]
    rates = frames["per_second_by_fate"]
    return table(
        "Fates", ("fate", "per s", "in all"), ((f, number(rates.get(f, 0)), number(n)) for n, f in used)
    )


def _queues(status: dict[str, Any]) -> Group:
    def row(queue: dict[str, Any]) -> tuple[object, ...]:
        show = size if queue["unit"] == "bytes" else number
        filled = bar(queue["depth"] / queue["bound"], 6) if queue["bound"] else Text("")
        return queue["queue"], show(queue["depth"]), filled

    return table("Queues", ("queue", "waiting", "full"), map(row, status["queues"]))


def _senders(status: dict[str, Any], sort: int, most: int) -> Group:
    found = sorted(status["input"]["senders"], key=SORTS[sort][1])
    shown = found[:most]
    beyond = status["input"]["senders_beyond"] + len(found) - len(shown)
    if not found:
        return Group(Text("Senders", "bold"), text("no sender is connected", "yellow"))
    return table(
        f"Senders by {SORTS[sort][0]}" + (f" (and {beyond} more)" if beyond else ""),
        ("identity", "peer", "per s", "frames", "bytes", "last", "waited"),
        (
            (
                s["identity"] or "(none)",
                s["peer"],
                number(s["frames_per_second"]),
                number(s["frames"]),
                size(s["bytes"]),
                clock(s["last_frame"]),
                span(s["blocked_seconds"]),
            )
            for s in shown
        ),
        left=2,
    )


def _workers(status: dict[str, Any]) -> Group:
    return table(
        "Workers",
        ("worker", "busy", "frames/s"),
        ((w["worker"], bar(w["busy_share"]), number(w["frames_per_second"])) for w in status["workers"]),
    )


def _ledger(interval: dict[str, Any] | None) -> Text:
    if interval is None:
        return text("first interval", "dim")
    if interval["closed"]:
        return text("closed", "green")
    return text(f"DOES NOT CLOSE ({number(interval['missing'])} frames)", "bold red")


def _novelty(status: dict[str, Any]) -> Group:
    novelty, events, uploads = status["novelty"], status["events"], status["uploads"]
    intervals = status["rotation"]["intervals"]
    rows: list[tuple[object, object]] = [
        ("new names/s", number(novelty["new_per_second"], 1)),
        ("names remembered", number(novelty["seen_names"])),
        ("events waiting", number(events["memory"] + events["disk"]) if events["enabled"] else "off"),
        (
            "broker",
            "off"
            if not events["enabled"]
            else text("connected", "green")
            if events["connected"]
            else text("not connected", "yellow"),
        ),
        ("uploads waiting", number(uploads["files"]) if uploads["enabled"] else "off"),
        ("last ledger", _ledger(intervals[0] if intervals else None)),
        ("disk", text(status["disk"]["state"], "" if status["disk"]["state"] == "ok" else "bold red")),
        ("free", size(status["disk"]["free_bytes"])),
    ]
    return table("Novelty and output", ("", ""), rows)


def _overview(status: dict[str, Any], sort: int, width: int, height: int) -> RenderableType:
    sections: list[RenderableType] = [_fates(status), _novelty(status), _queues(status), _workers(status)]
    if width >= 160:
        return Group(Columns(sections, padding=(0, 4)), _senders(status, sort, max(1, height - 20)))
    pairs = Table.grid(padding=(0, 3))
    pairs.add_row(*sections[:2])
    pairs.add_row(*sections[2:])
    rest = height - 24
    return Group(pairs, _senders(status, sort, rest)) if rest > 2 else pairs


def _senders_view(status: dict[str, Any], sort: int, _width: int, height: int) -> RenderableType:
    types = status["input"]["message_types"]
    made = table("Message types", ("type", "frames"), ((t, number(n)) for t, n in list(types.items())[:6]))
    return Group(_senders(status, sort, max(3, height - 14)), made)


def _work(status: dict[str, Any], _sort: int, _width: int, _height: int) -> RenderableType:
    stages = table(
        "Stages",
        ("stage", "share", "processor"),
        ((s["stage"], bar(s["share"]), span(s["cpu_seconds"])) for s in status["stages"]),
    )
    process = status["process"]
    facts = table(
        "Process",
        ("", ""),
        (
            ("memory", size(process["memory_bytes"])),
            ("processor", f"{100 * process['cpu_share']:.1f} % of a core"),
            ("threads", number(process["threads"])),
            ("open files", f"{process['open_files']} of {process['open_files_bound']}"),
        ),
    )
    pairs = Table.grid(padding=(0, 3))
    pairs.add_row(stages, _workers(status))
    pairs.add_row(_queues(status), facts)
    return pairs


def _output(status: dict[str, Any], _sort: int, _width: int, _height: int) -> RenderableType:
    def facts(title: str, section: dict[str, Any]) -> Group:
        if not section["enabled"]:
            return table(title, ("",), (("off: nothing is sent",),))
        rows = []
        for name, value in section.items():
            if name == "last_error":
                value = f"{clock(value['time'])} {value['text']}" if value else "none"
            elif name == "last_success":
                value = clock(value)
            elif name.endswith("bytes"):
                value = size(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                value = number(value)
            if name != "enabled":
                rows.append((name.replace("_", " "), value))
        return table(title, ("", ""), rows, left=2)

    certificates = table(
        "Certificates", ("for", "left"), ((c["use"], span(c["seconds_left"])) for c in status["certificates"])
    )
    disk = status["disk"]
    kinds = table("Disk", ("kind", "bytes"), ((k, size(n)) for k, n in disk["kinds"].items() if n))
    return Group(
        facts("Events to Core (MQTT)", status["events"]),
        facts("Histograms to Core (HTTPS)", status["uploads"]),
        certificates,
        kinds,
    )


def _failed(reload: dict[str, Any]) -> str:
    return "; ".join(f"{p['part']}: {p['text']}" for p in reload["parts"] if p["outcome"] == "failed")


def _history(status: dict[str, Any], _sort: int, _width: int, height: int) -> RenderableType:
    intervals = table(
        "Last intervals",
        ("ended", "ledger", "frames", "histogram rows", "session rows", "file after"),
        (
            (
                clock(i["stop"]),
                _ledger(i),
                number(i["frames"]),
                number(i["histogram_rows"]) if i["histogram_rows"] is not None else "no file",
                number(i["session_rows"]) if i["session_rows"] is not None else "no file",
                span(i["write_seconds"]),
            )
            for i in status["rotation"]["intervals"][: max(3, height - 16)]
        ),
        left=2,
    )
    reloads = table(
        "Reloads",
        ("at", "outcome"),
        (
            (
                clock(r["time"]),
                text("in order", "green")
                if r["ok"]
                else text(
                    "; ".join(f"{p['part']}: {p['text']}" for p in r["parts"] if p["outcome"] == "failed"),
                    "red",
                ),
            )
            for r in status["reload"]["history"][:5]
        ),
        left=2,
    )
    snapshot = status["snapshot"]
    lists = table(
        f"Lists and key (fingerprint {visible(snapshot['key']['fingerprint'])})",
        ("list", "entries", "digest", "in use for"),
        (
            (x["list"], number(x["entries"]), x["digest"] or "-", span(x["age_seconds"]))
            for x in snapshot["lists"]
        ),
    )
    return Group(intervals, reloads, lists)


_SHOW = dict(zip(VIEWS, (_overview, _senders_view, _work, _output, _history), strict=True))


def show(
    status: dict[str, Any], view: str, sort: int = 0, width: int = 80, height: int = 24, problem: str = ""
) -> RenderableType:
    """Return a view of a status document.

    Parameters
    ----------
    view : str
        One of :data:`VIEWS`.
    sort : int
        Index in :data:`SORTS`.
    width, height : int
        Of the terminal, in characters.
    problem : str
        The reason why the document is old; empty if it is not.
    """
    try:
        body = _SHOW[view](status, sort, width, height)
    except (KeyError, TypeError, AttributeError):
        body = text("A part of the status is missing; see /api/status and the log of the daemon.", "yellow")
    return Group(header(status, view, problem), body)


__all__ = ["SORTS", "VIEWS", "bar", "clock", "number", "show", "size", "span"]
