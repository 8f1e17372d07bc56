"""``edm inspect``: show a summary of output files and captures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edm.cli.arguments import Arguments, Option, Spec, UsageError
from edm.cli.printing import complain
from edm.errors import InputError
from edm.files.visible import visible, visible_json

_LEDGER = "edm.ledger."
_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_DATABASE = b"SQLite format 3\0"
_EVENTS = b'{"'
_KINDS = 12
"""Most kinds (such as message types) that are listed one by one."""

SPEC = Spec(
    positional="FILE...",
    options=(
        Option("top", "Names to show, those that occur most.", kind="int", default=10),
        Option("format", "How to print it.", default="text", choices=("text", "json")),
    ),
    config=False,
    about="Show what is in Parquet output files (kind, interval, rows, ledger, most frequent names) and in dnstap "
    "captures (frames by type and fate, response codes, most frequent names; - is standard input), in files of new "
    "names (events, question types, first names), and in the queue of new names (events that wait, events that were "
    "set aside and why). Fates of a capture's frames are shown as far as they do not depend on a list. Addresses are "
    "never shown.",
)


def run(args: Arguments) -> int:
    """Show the files; returns 1 if one is damaged or cannot be read."""
    top = int(args.options["top"] or 0)
    if top < 0:
        raise UsageError(["--top must not be negative"])
    from edm.captures.event_lines import inspect_events
    from edm.captures.inspection import inspect
    from edm.tapir.events.queue_inspection import inspect_queue

    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for name in args.positional:
        try:
            begin = _beginning(name)
            if begin.startswith(_DATABASE):
                facts = inspect_queue(name, top)
            elif begin.startswith(_EVENTS):
                facts = inspect_events(name, top)
            else:
                facts = inspect(name, top)
        except InputError as error:
            problems.append(str(error))
            continue
        problems += [facts["problem"]] if "problem" in facts else []
        if args.options["format"] == "text":
            lines = _TEXTS.get(facts["kind"], _parquet_text)
            print("\n" * bool(found) + "\n".join(lines(facts)))
        found.append(facts)
    if args.options["format"] == "json":
        print(visible_json(json.dumps(found, indent=2)))
    sys.stdout.flush()
    complain(args.program, *problems)
    return 1 if problems else 0


def _beginning(name: str) -> bytes:
    """Return the first bytes of a regular file; nothing for a pipe or device, which can only be a capture."""
    try:
        if name == "-" or not Path(name).is_file():
            return b""
        with Path(name).open("rb") as file:
            return file.read(len(_DATABASE))
    except (OSError, ValueError):
        return b""


def _events_text(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{visible(facts['file'])}: new names"
    yield _line("events", f"{facts['events']:,} ({facts['bytes']:,} bytes)")
    if facts["times"]:
        yield _line("minutes", " to ".join(facts["times"]))
    yield from _counts(
        "question types", ((f"TYPE{number}", count) for number, count in facts["types"].items())
    )
    if facts["shown"]:
        yield "  first names"
        yield from (f"    {visible(name)}" for name in facts["shown"])


def _queue_text(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{visible(facts['file'])}: queue of new names"
    yield _line("waiting", f"{facts['waiting_events']:,} with {facts['waiting_bytes']:,} bytes")
    yield from _counts("all since it was made", facts["totals"].items())
    yield _line("set aside", f"{facts['set_aside']:,}")
    for entry in facts["shown"]:
        yield f"    {visible(entry['when'])}  {visible(entry['reason'])} ({entry['bytes']:,} bytes)"
        if entry["payload"] is not None:
            yield f"      {visible(entry['payload'])}"


def _line(label: str, value: object) -> str:
    return f"  {visible(label):<20}{visible(value)}"


def _names_line(facts: dict[str, Any]) -> str:
    rest = (
        ""
        if facts["names_complete"]
        else " at least, too many to count each: what follows may occur more often"
    )
    return _line("names", f"{facts['names']:,}{rest}")


def _counts(title: str, counts: Iterable[tuple[str, int]]) -> Iterator[str]:
    shown = [(name, count) for name, count in counts if count]
    if shown:
        yield f"  {title}"
        yield from (f"{count:>16,}  {visible(name)}" for name, count in shown[:_KINDS])
    if rest := shown[_KINDS:]:
        yield f"{sum(count for _, count in rest):>16,}  of {len(rest)} other kinds"


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Iterator[str]:
    titles = {"nx_count": "NXDOMAIN", "v4client_count": "v4 clients", "v6client_count": "v6 clients"}
    if rows:
        yield "    " + "".join(f"{titles.get(column, column):>12}" for column in columns) + "  name"
    for row in rows:
        yield "    " + "".join(f"{row[column]:>12,}" for column in columns) + "  " + visible(row["name"])


def _parquet_text(facts: dict[str, Any]) -> Iterator[str]:
    kinds = {"histogram": "histogram of well-known names", "session": "sessions"}
    yield f"{visible(facts['file'])}: {kinds.get(facts['kind'], 'Parquet file of another program')}"
    if facts["interval"]:
        yield _line("interval", " to ".join(facts["interval"]))
    groups = facts["row_groups"]
    yield _line("rows", f"{facts['rows']:,} in {groups:,} row group{'' if groups == 1 else 's'}")
    codec = f"{facts['compression']} compression" if facts["compression"] else "no compression"
    yield _line("size", f"{facts['bytes']:,} bytes, {codec}")
    yield _line("written by", facts["created_by"])
    if facts["kind"] == "parquet":
        yield _line("columns", ", ".join(facts["columns"]))
        return
    if facts["missing"]:
        yield _line(
            "missing columns", f"{', '.join(facts['missing'])} (written by an older version or the Go daemon)"
        )
    yield from _metadata_text(facts["metadata"])
    if facts["kind"] == "histogram":
        yield _line("responses", f"{facts['responses']:,}")
        yield from _table(facts["top"], ("responses", "nx_count", "v4client_count", "v6client_count"))
    else:
        yield _names_line(facts)
        yield from _table(facts["top"], ("rows",))


def _metadata_text(metadata: dict[str, str]) -> Iterator[str]:
    ledger: list[tuple[str, int]] = []
    for key, value in metadata.items():
        if not key.startswith((_LEDGER, "edm.interval.")):
            yield _line(key.removeprefix("edm.").replace(".", " ").replace("_", " "), value)
        elif key.startswith(_LEDGER) and _NUMBER.fullmatch(value):
            ledger.append((key.removeprefix(_LEDGER).replace("_", " "), int(value)))
    if ledger:
        closed = metadata.get(_LEDGER + "closed") == "true"
        yield from _counts(f"ledger, {'closed' if closed else 'NOT CLOSED'}", sorted(ledger, key=_by_count))
    else:
        yield _line("ledger", "none in this file")


def _by_count(entry: tuple[str, int]) -> int:
    return -entry[1]


def _capture_text(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{visible(facts['file'])}: dnstap capture"
    size = "" if facts["bytes"] is None else f" ({facts['bytes']:,} bytes on disk)"
    yield _line("frames", f"{facts['frames']:,} with {facts['frame_bytes']:,} bytes{size}")
    if facts["frames_oversized"]:
        yield _line("oversized", f"{facts['frames_oversized']:,} frames skipped")
    if facts["response_times"]:
        yield _line("response times", " to ".join(facts["response_times"]))
    yield from _counts("message types", facts["types"].items())
    yield from _counts("fates", ((fate.replace("_", " "), count) for fate, count in facts["fates"].items()))
    yield from _counts("response codes", facts["rcodes"].items())
    yield _names_line(facts)
    yield from _table(facts["top"], ("responses",))


_TEXTS = {"capture": _capture_text, "queue": _queue_text, "new_qname": _events_text}
"""Functions that show a kind of file; all other kinds are Parquet."""
