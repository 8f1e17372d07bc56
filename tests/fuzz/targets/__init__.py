"""All fuzz targets by name."""

from __future__ import annotations

from fuzz.target import Target
from fuzz.targets.capture import CaptureTarget
from fuzz.targets.configuration import ConfigurationTarget
from fuzz.targets.dawg import DawgTarget
from fuzz.targets.dns import DnsTarget
from fuzz.targets.dnstap import DnstapTarget
from fuzz.targets.framestream import FrameStreamTarget
from fuzz.targets.keys import KeysTarget
from fuzz.targets.names import NamesTarget
from fuzz.targets.packets import PacketsTarget
from fuzz.targets.pipeline import PipelineTarget
from fuzz.targets.prefixes import PrefixesTarget
from fuzz.targets.seen_log import SeenLogTarget

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (
        CaptureTarget,
        ConfigurationTarget,
        DawgTarget,
        DnsTarget,
        DnstapTarget,
        FrameStreamTarget,
        KeysTarget,
        NamesTarget,
        PacketsTarget,
        PipelineTarget,
        PrefixesTarget,
        SeenLogTarget,
    )
}

__all__ = ["TARGETS"]
