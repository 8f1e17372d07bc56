"""All fuzz targets by name."""

from __future__ import annotations

from fuzz.target import Target
from fuzz.targets.dawg import DawgTarget
from fuzz.targets.dns import DnsTarget
from fuzz.targets.dnstap import DnstapTarget
from fuzz.targets.framestream import FrameStreamTarget
from fuzz.targets.names import NamesTarget

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (
        DawgTarget,
        DnsTarget,
        DnstapTarget,
        FrameStreamTarget,
        NamesTarget,
    )
}

__all__ = ["TARGETS"]
