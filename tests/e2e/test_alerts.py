"""Faults recorded anew from the real daemon still make the alerts fire."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.alert_recordings import RULES, document, record_case
from support.processes import find, need

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("scenario", ["broken list", "broker away"])
def test_a_fault_recorded_anew_fires_its_alert(scenario: str, tmp_path: Path) -> None:
    need("promtool", "mosquitto")
    file = tmp_path / "recorded.yml"
    file.write_text(document([record_case(scenario, tmp_path)], str(RULES)))
    result = subprocess.run(
        [str(find("promtool")), "test", "rules", str(file)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
