"""The words for what a trial found: the chain of decisions about a name, and the changes between two states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_KINDS = {"exact": "exactly", "suffix": "as a name below"}
_ENDS = {
    "client_ignored": "It would be dropped: the client is ignored. Nothing of it is kept.",
    "question_ignored": "It would be dropped: the name is ignored. Nothing of it is kept.",
    "well_known": "It would only be counted, in the histogram row of the entry.",
    "session": "It would become a session row",
    "session_off": "It would leave no row, since disable-session-files is set",
}


def tell_explanation(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about a name; ``found`` is from :func:`edm.trial.explain.explain`."""
    yield f"{found['name']} type {found['type']}: an answer ({found['message_type']}) about it, step by step"
    for number, (step, text) in enumerate(_steps(found), 1):
        yield f"  {number}. {step + ':':18} {text}"
    yield _end(found)
    for title, key in (
        ("session row", "session_row"),
        ("histogram row", "histogram_row"),
        ("event", "event"),
    ):
        if found[key]:
            yield f"  {title}:"
            yield from (f"    {name} = {_value(value)}" for name, value in found[key].items())
            if key == "session_row":
                yield "    (ports, server, protocol, time and message are those of the answer itself)"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _steps(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    fate = found["fate"]
    yield "client", _client(found)
    if fate == "client_ignored":
        return
    if fate not in _ENDS:
        yield "message", f"goes no further: {fate.replace('_', ' ')}"
        return
    yield "message", "can be read, and holds a question"
    yield "ignored names", _list(found, "ignored_question_names", found["ignored_name"], "ignored")
    if fate == "question_ignored":
        return
    yield "well-known names", _list(found, "well_known_domains", found["well_known"], "well known")
    if fate == "well_known":
        yield "seen names", "not asked: that is done only for names that are not well known"
        return
    if found["seen"]:
        yield "seen names", "seen before by this site, so there is no event"
    elif found["events"]:
        yield "seen names", "not seen before by this site: a new_qname event would be sent, once"
    else:
        yield "seen names", "not seen before by this site; no event, since disable-mqtt is set"


def _client(found: Mapping[str, Any]) -> str:
    known = found["lists"]["ignored_client_ips"]
    if hit := found["ignored_client"]:
        more = f", and by {len(hit['others'])} more" if hit["others"] else ""
        return f"ignored by the prefix {hit['prefix']}, line {hit['line']} of {known['file']}{more}"
    if not known["entries"]:
        return "not ignored: no client is"
    if not found["client"]:
        return f"not looked at: name one with --client to ask the {known['entries']:,} prefixes of {known['file']}"
    return f"not ignored: in none of the {known['entries']:,} prefixes of {known['file']}"


def _list(found: Mapping[str, Any], name: str, hit: Mapping[str, str] | None, word: str) -> str:
    known = found["lists"][name]
    if hit:
        return f"{word}: matches the entry {hit['entry']} of {known['file']} {_KINDS[hit['match']]} ({hit['match']})"
    if not known["entries"]:
        return f"not {word}: no name is"
    return f"not {word}: none of the {known['entries']:,} entries of {known['file']} matches"


def _end(found: Mapping[str, Any]) -> str:
    end = _ENDS.get(found["fate"], f"It would be dropped: {found['fate'].replace('_', ' ')}.")
    if found["fate"] in ("session", "session_off"):
        end += " and a new_qname event." if found["event"] else "."
    return end


def tell_comparison(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about two states; ``found`` is from :meth:`edm.trial.compare.Comparison.document`."""
    frames = found["frames"]
    if not frames:
        yield "no frames to compare"
        return
    if not found["changed"]:
        yield f"all of {frames:,} frames keep their class"
        return
    share = found["changed"] / frames
    yield f"{found['changed']:,} of {frames:,} frames ({share:.1%}) change their class:"
    for change in found["changes"]:
        yield f"  {change['share']:>7.1%} {change['frames']:>12,}  {_way(change)}"
    if found["entries"]:
        yield "the entries that matter most:"
    for each in found["entries"]:
        when = {"before": "in the state that is", "after": "in the state that would be"}[each["state"]]
        yield f"  {each['frames']:>12,}  {each['entry']} of {each['list']}, {when}: {_way(each)}"
    if found["entries_beyond"]:
        yield f"  and {found['entries_beyond']:,} more"


def _way(change: Mapping[str, Any]) -> str:
    return f"{change['from'].replace('_', ' ')} -> {change['to'].replace('_', ' ')}"


__all__ = ["tell_comparison", "tell_explanation"]
