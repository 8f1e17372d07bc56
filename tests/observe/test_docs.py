"""The page of metrics is what the code says, and nothing is missing on either side."""

from __future__ import annotations

from pathlib import Path

from edm.observe.docs import catalogue, declared, page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_code_says() -> None:
    """If this fails: ``python -m edm.observe.docs docs/metrics.md``."""
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == page()


def test_every_metric_has_an_entry_and_every_entry_a_metric() -> None:
    assert set(declared()) == set(catalogue())


def test_every_entry_says_everything() -> None:
    empty = [
        name
        for name, entry in catalogue().items()
        if not all((entry.unit, entry.meaning, entry.normal, entry.do))
    ]
    assert empty == []


def test_types_and_labels_come_from_the_declarations() -> None:
    known = declared()
    assert (known["edm_sender_frames_total"].kind, known["edm_sender_frames_total"].labels) == (
        "counter",
        ("peer", "identity"),
    )
    assert (known["edm_interval_to_file_seconds"].kind, known["edm_interval_to_file_seconds"].labels) == (
        "histogram",
        ("kind",),
    )
    assert known["edm_frames_total"].labels == ("fate",)
    assert known["edm_mqtt_connected"].kind == "gauge"
