"""Declaring a configuration key in its group: what a field of :class:`edm.config.schema.Settings` is made with."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from edm.config.key import Kind, Value


def key(default: Value, text: str, *, kind: Kind | None = None, **more: Any) -> Any:
    """Return the field of a key: its default, its help text, and more of :class:`edm.config.key.Key`."""
    if kind is None:
        kind = "bool" if isinstance(default, bool) else "int" if isinstance(default, int) else "string"
    return dataclasses.field(default=default, metadata={"help": text, "kind": kind, **more})


privacy = partial(key, group="Pseudonyms")
lists = partial(key, group="Lists")
input = partial(key, group="Input")
work = partial(key, group="Work and memory")
output = partial(key, group="Data directory and files")
mqtt = partial(key, group="New names to Core (MQTT)")
http = partial(key, group="Histograms to Core (HTTPS)")
observe = partial(key, group="Observation")
