from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from edm.observe import profiles


def innermost(done: threading.Event) -> None:
    done.wait()


def outermost(done: threading.Event, started: threading.Event) -> None:
    started.set()
    innermost(done)


@pytest.fixture
def waiting() -> Iterator[threading.Thread]:
    done, started = threading.Event(), threading.Event()
    thread = threading.Thread(target=outermost, args=(done, started), name="reader;192.0.2.1", daemon=True)
    thread.start()
    started.wait()
    yield thread
    done.set()
    thread.join()


@pytest.mark.usefixtures("waiting")
def test_collapsed_stacks_name_thread_and_calls() -> None:
    samples = profiles.Profiler().sample(0.1, 200)
    lines = [line for line in samples.collapsed().splitlines() if line.startswith("reader,<address>;")]
    total = 0
    for line in lines:
        stack, count = line.rsplit(" ", 1)
        frames = stack.split(";")
        assert any(frame.startswith("outermost (observe/test_profiles.py:") for frame in frames)
        total += int(count)
    assert any("innermost (" in line for line in lines)
    assert total == samples.rounds > 1
    assert "192.0.2.1" not in samples.collapsed()


@pytest.mark.usefixtures("waiting")
def test_speedscope_weights_add_up_to_the_time() -> None:
    samples = profiles.Profiler().sample(0.1, 200)
    document = json.loads(samples.speedscope())
    frames = document["shared"]["frames"]
    (profile,) = [p for p in document["profiles"] if p["name"] == "reader;<address>"]
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert profile["type"] == "sampled"
    assert len(profile["samples"]) == len(profile["weights"])
    assert sum(profile["weights"]) == pytest.approx(samples.seconds)
    assert profile["endValue"] == pytest.approx(samples.seconds)
    named = [[frames[i]["name"] for i in stack] for stack in profile["samples"]]
    assert all("outermost" in stack for stack in named)


def test_profiler_leaves_itself_out() -> None:
    samples = profiles.Profiler().sample(0.02)
    assert "Profiler" not in samples.collapsed()


def test_sampling_takes_the_time_asked_for_and_little_cpu() -> None:
    wall, cpu = time.perf_counter(), time.thread_time()
    samples = profiles.Profiler().sample(0.3, profiles.MAX_HERTZ)
    assert samples.seconds > 0.25
    assert time.perf_counter() - wall < 5
    assert time.thread_time() - cpu < 0.5 * 0.3
    assert 1 <= samples.rounds <= 0.3 * profiles.MAX_HERTZ + 2


def test_number_of_stacks_is_bounded(monkeypatch: pytest.MonkeyPatch, waiting: threading.Thread) -> None:
    monkeypatch.setattr(profiles, "_MAX_STACKS", 0)
    samples = profiles.Samples()
    samples.take(threading.get_ident())
    assert samples.stacks[(waiting.ident or 0, ())] == 1
    assert "reader,<address> 1\n" in samples.collapsed()


def test_stop_ends_a_profile_early() -> None:
    profiler = profiles.Profiler()
    timer = threading.Timer(0.05, profiler.stop)
    timer.start()
    start = time.perf_counter()
    samples = profiler.sample(profiles.MAX_SECONDS)
    timer.join()
    assert time.perf_counter() - start < 10
    assert samples.rounds >= 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, 61.0, float("nan"), float("inf")])
def test_time_is_bounded(seconds: float) -> None:
    with pytest.raises(profiles.ProfileError, match="seconds must be above 0 and at most 60"):
        profiles.Profiler().sample(seconds)


@pytest.mark.parametrize("hertz", [0.0, 0.5, 1000.0, float("nan")])
def test_rate_is_bounded(hertz: float) -> None:
    with pytest.raises(profiles.ProfileError, match="hz must be between 1 and 250"):
        profiles.Profiler().sample(0.1, hertz)


def test_one_at_a_time() -> None:
    profiler = profiles.Profiler()
    running = threading.Thread(target=profiler.sample, args=(30.0,))
    running.start()
    while not profiler._busy.locked():
        time.sleep(0)
    with pytest.raises(profiles.ProfileError, match="another profile"):
        profiler.sample(0.1)
    profiler.stop()
    running.join()
    assert profiler.sample(30.0).rounds == 1  # stopped: the lock is free again, and nothing waits


@pytest.mark.usefixtures("waiting")
def test_thread_stacks_show_code_and_no_data() -> None:
    text = profiles.thread_stacks()
    assert "reader;<address> (native id " in text
    assert "MainThread" in text
    block = text.split("reader;<address>")[1].split("\n\n")[0]
    assert block.index("in outermost") < block.index("in innermost") < block.index("in wait")
    assert "192.0.2.1" not in text


def test_heap_summary() -> None:
    assert not tracemalloc.is_tracing()
    text = profiles.heap_summary()
    assert "VmRSS:" in text
    assert "gc generation 2:" in text
    assert "not traced" in text
    tracemalloc.start()
    try:
        kept = [bytes(1000) for _ in range(1000)]
        traced = profiles.heap_summary(top=5)
    finally:
        tracemalloc.stop()
    assert len(kept) == 1000
    assert "test_profiles.py" in traced
    assert "traced: " in traced


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["edm", "--cryptopan-key", "s3cret", "--debug"], ["edm", "--cryptopan-key", "***", "--debug"]),
        (["edm", "-cryptopan-key=s3=cret"], ["edm", "-cryptopan-key=***"]),
        (["edm", "--cryptopan-key-salt", "-s3cret"], ["edm", "--cryptopan-key-salt", "***"]),
        (["edm", "--mqtt-client-key-file", "a.pem"], ["edm", "--mqtt-client-key-file", "a.pem"]),
        (["edm", "--http-url=https://u:s3cret@h/x"], ["edm", "--http-url=https://***@h/x"]),
        (["edm", "--cryptopan-key"], ["edm", "--cryptopan-key"]),
    ],
)  # fmt: skip
def test_command_line_hides_secrets(arguments: list[str], shown: list[str]) -> None:
    assert profiles.command_line(arguments).split("\0") == shown
