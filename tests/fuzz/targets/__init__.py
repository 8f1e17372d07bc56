"""All fuzz targets by name."""

from __future__ import annotations

from fuzz.target import Target
from fuzz.targets.configuration import ConfigurationTarget
from fuzz.targets.dawg import DawgTarget
from fuzz.targets.dns import DnsTarget
from fuzz.targets.dnstap import DnstapTarget
from fuzz.targets.framestream import FrameStreamTarget
from fuzz.targets.names import NamesTarget
from fuzz.targets.pipeline import PipelineTarget
from fuzz.targets.prefixes import PrefixesTarget

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (
        ConfigurationTarget,
        DawgTarget,
        DnsTarget,
        DnstapTarget,
        FrameStreamTarget,
        NamesTarget,
        PipelineTarget,
        PrefixesTarget,
    )
}

__all__ = ["TARGETS"]
