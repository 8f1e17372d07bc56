"""Checks of the running daemon's status, and of what DNS servers send to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edm import __version__
from edm.cli.doctor.catalogue import Found
from edm.cli.status_client import Daemon, StatusError

ENOUGH = 1000
"""With fewer frames than this, nothing is said about their types."""
UNUSABLE_SHARE = 0.05

_UNUSABLE = ("undecodable", "dns_parse_error", "client_address_invalid", "pending")
_OWN = {"no-frames": "EDM040", "queries-only": "EDM041", "duplicate-logging": "EDM043"}


def look(daemon: Daemon) -> Iterator[Found]:
    """Yield the findings."""
    try:
        status = daemon.status()
    except StatusError as error:
        yield Found("EDM030", str(error))
        return
    try:
        yield from _judge(status)
    except (KeyError, TypeError, AttributeError):
        yield Found("EDM031", "a part of its status is missing; see its log")


def _judge(status: dict[str, Any]) -> Iterator[Found]:
    version = status["program"]["version"]
    if version != __version__:
        yield Found("EDM033", f"it is {version}, this is {__version__}")
    told = set()
    for finding in status["health"]["findings"]:
        told.add(finding["code"])
        severe = "EDM031" if finding["severity"] == "error" else "EDM032"
        code = _OWN.get(finding["code"], severe)
        if finding["severity"] != "info":
            yield Found(code, f"{finding['what']} {finding['do']}")
    frames, fates = status["frames"]["total"], status["frames"]["fates"]
    if not frames and "no-frames" not in told:
        connections = status["input"]["connections"]
        yield Found("EDM040", f"no frame since the start; connections now: {connections}")
    if frames < ENOUGH:
        return
    answers = sum(fates.get(fate, 0) for fate in ("well_known", "session", "session_off"))
    if answers >= ENOUGH and not fates.get("well_known"):
        yield Found("EDM042", f"none of {answers:,} answers")
    unusable = sum(fates.get(fate, 0) for fate in _UNUSABLE)
    if unusable > UNUSABLE_SHARE * frames:
        named = ", ".join(f"{fate} {fates[fate]:,}" for fate in _UNUSABLE if fates.get(fate))
        yield Found("EDM044", f"{100 * unusable / frames:.0f} % of {frames:,}: {named}")


__all__ = ["ENOUGH", "UNUSABLE_SHARE", "look"]
