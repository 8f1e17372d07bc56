"""The times at which an upload is tried again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm.tapir.upload.retries import Backoff, retry_after

NOW = 1_445_412_420.0  # Wed, 21 Oct 2015 07:27:00 GMT


def test_waits_double_up_to_a_bound() -> None:
    backoff = Backoff(15, 300)
    assert backoff.until == -math.inf
    assert [backoff.failed(1000.0) for _ in range(7)] == [15, 30, 60, 120, 240, 300, 300]
    assert backoff.until == 1300
    backoff.forgive()
    assert backoff.until == -math.inf
    assert backoff.failed(0.0) == 300
    backoff.reset()
    assert backoff.until == -math.inf
    assert backoff.failed(0.0) == 15


def test_no_number_of_failures_is_too_many() -> None:
    backoff = Backoff(1, 10)
    assert {backoff.failed(0.0) for _ in range(5000)} == {1, 2, 4, 8, 10}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60),
        ("Wednesday, 21-Oct-15 07:28:00 GMT", 60),
        ("Wed Oct 21 07:28:00 2015", 60),
        ("Wed, 21 Oct 2015 07:20:00 GMT", 0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_retry_after_of_absurd_length() -> None:
    assert retry_after("9" * 100_000, NOW) == 99999999999999999999.0


@given(st.text())
def test_retry_after_takes_anything(value: str) -> None:
    seconds = retry_after(value, NOW)
    assert seconds is None or seconds >= 0
