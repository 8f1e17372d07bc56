"""The dashboard and the alert rules in ``packaging/`` ask for metrics that exist, and promtool takes the rules."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edm.observe.docs import declared
from support.alert_recordings import RULES, SCENARIOS, notation, rules
from support.processes import find, need
from test_docs import anchors

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "packaging" / "grafana" / "edm.json"
TESTS = RULES.with_name("edm-alerts.test.yml")


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", ())]


def unknown_metrics(text: str) -> set[str]:
    exported = set()
    for name, metric in declared().items():
        parts = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        exported |= {name + part for part in parts}
    return set(re.findall(r"\bedm_\w+", text)) - exported


def test_the_dashboard_shows_only_metrics_that_exist() -> None:
    assert len(expressions()) > 30
    assert unknown_metrics("\n".join(expressions())) == set()


def test_each_panel_has_an_id_of_its_own_and_a_place_of_its_own() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()}
    assert len(places) == len(ids)


def test_the_dashboard_leaves_the_data_source_to_the_operator() -> None:
    sources = {json.dumps(panel["datasource"]) for panel in panels() if panel["type"] != "row"}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}


def test_alerts_use_only_metrics_that_exist() -> None:
    assert unknown_metrics(RULES.read_text()) == set()


@pytest.mark.parametrize("alert", rules())
def test_each_alert_says_what_is_wrong_and_where_to_read_on(alert: str) -> None:
    severity, texts = rules()[alert]
    assert severity in ("warning", "critical")
    assert set(texts) == {"summary", "description", "runbook"}
    found = re.search(r"docs/(\w+\.md)#([\w-]+)", texts["runbook"])
    assert found is not None
    assert found[2] in anchors((ROOT / "docs" / found[1]).read_text())


def test_every_alert_has_fired_in_a_test() -> None:
    tests = json.loads(TESTS.read_text().split("\n", 1)[1])["tests"]
    fired = {check["alertname"] for each in tests for check in each["alert_rule_test"] if check["exp_alerts"]}
    assert fired == set(rules())
    assert set(SCENARIOS) <= {each["name"] for each in tests}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 1.0, 1.0], "1+0x2"),
        ([0.0, 5.0, 10.0, 10.0, 10.0], "0+5x2 10 10"),
        ([3.0, None, None, 4.0], "3 _ _ 4"),
        ([7.5, 7.0, 6.5], "7.5-0.5x2"),
    ],
)
def test_series_are_written_as_promtool_reads_them(values: list[float | None], text: str) -> None:
    assert notation(values) == text


@pytest.mark.e2e
def test_promtool_takes_the_rules_and_their_tests() -> None:
    need("promtool")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(TESTS)]):
        result = subprocess.run([str(find("promtool")), *command], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.e2e
def test_promtool_takes_each_expression_of_the_dashboard(tmp_path: Path) -> None:
    need("promtool")
    each = [
        {
            "record": f"panel:{number}",
            "expr": text.replace("$__rate_interval", "5m").replace("$instance", ".*"),
        }
        for number, text in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": each}]}))
    result = subprocess.run(
        [str(find("promtool")), "check", "rules", str(file)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
