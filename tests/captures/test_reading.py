from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.captures import reading
from edm.captures.reading import CaptureReader, read_capture
from edm.errors import InputError
from oracles import framestream
from oracles.framestream import CONTENT_TYPE, capture_frames, control, data

START = control(2, CONTENT_TYPE)
STOP = control(3)
FRAMES = [bytes([k % 251]) * (1 + k * 7 % 400) for k in range(500)]
NOISE = random.Random(7).randbytes(50_000)
PHASE = data(*FRAMES) + STOP
STREAM = START + PHASE


def gz(raw: bytes) -> bytes:
    return gzip.compress(raw, 1, mtime=0)


def zst(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(raw)


def halves(raw: bytes, pack: Any) -> bytes:
    middle = len(raw) // 2
    packed: bytes = pack(raw[:middle]) + pack(b"") + pack(raw[middle:])
    return packed


SKIPPABLE = b"\x53\x2a\x4d\x18\x05\0\0\0hello"
FORMS = {
    "plain": STREAM,
    "gzip": gz(STREAM),
    "gzip members": halves(STREAM, gz),
    "gzip padded": gz(STREAM) + bytes(700),
    "zstd": zst(STREAM),
    "zstd frames": halves(STREAM, zst),
    "zstd skippable": SKIPPABLE + zst(STREAM) + SKIPPABLE,
    "zstd without size": zstandard.ZstdCompressor().compressobj().compress(b"") or b"",
}
_streaming = zstandard.ZstdCompressor().compressobj()
FORMS["zstd without size"] = _streaming.compress(STREAM) + _streaming.flush()


@pytest.fixture
def capture(tmp_path: Path) -> Any:
    def write(content: bytes, name: str = "x.dat") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_size", [1, 13, 4096, 1 << 20])
def test_every_form_gives_the_data_phase(form: str, chunk_size: int, capture: Any) -> None:
    if chunk_size == 1 and form != "plain":
        chunk_size = 3
    chunks = list(read_capture(capture(FORMS[form]), chunk_size))
    assert b"".join(chunks) == PHASE
    assert all(0 < len(chunk) <= chunk_size for chunk in chunks)


@pytest.mark.parametrize("form", FORMS)
def test_the_form_is_told_by_content_not_by_name(form: str, capture: Any) -> None:
    for name in ("x.gz", "x.zst", "x.fstrm"):
        assert b"".join(read_capture(capture(FORMS[form], name))) == PHASE


@pytest.mark.parametrize("form", FORMS)
def test_a_large_buffer_is_filled(form: str, capture: Any) -> None:
    # A caller pays per call: output must not come in the small pieces that decompressors make.
    with CaptureReader(capture(FORMS[form])) as reader:
        buffer = memoryview(bytearray(len(PHASE) + 10))
        got = reader.readinto(buffer)
        got += reader.readinto(buffer[got:])
        assert buffer[:got] == PHASE
        assert reader.readinto(buffer) == 0
        assert reader.position == len(STREAM)
        assert reader.compressed_position == reader.size == len(FORMS[form])
        reader.check_end(0)
        assert not reader.truncated


@pytest.mark.parametrize("form", FORMS)
def test_standard_input(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO(FORMS[form])

    monkeypatch.setattr(sys, "stdin", Standard)
    with CaptureReader("-") as reader:
        assert reader.size is None
        assert reader.name == "standard input"
        phase = bytearray(len(PHASE) * 2)
        got = 0
        while count := reader.readinto(memoryview(phase)[got:]):
            got += count
    assert phase[:got] == PHASE
    assert not Standard.buffer.closed


class Dribble(io.BytesIO):
    """A pipe that gives one byte at a time."""

    def readinto(self, view: Any) -> int:
        return super().readinto(memoryview(view)[:1])


@pytest.mark.parametrize("form", FORMS)
def test_a_pipe_that_gives_single_bytes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", type("Standard", (), {"buffer": Dribble(FORMS[form])}))
    assert b"".join(read_capture("-")) == PHASE


@pytest.mark.parametrize("before", [0, 1024])
def test_a_frame_header_is_not_taken_for_two(
    before: int, capture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the magic number comes what would be a frame alone; as a header it asks for a dictionary."""
    filler = b"\x53\x2a\x4d\x18" + (before - 8).to_bytes(4, "little") + bytes(before - 8) if before else b""
    content = filler + b"\x28\xb5\x2f\xfd" + SKIPPABLE + zst(STREAM)
    for source in (io.BytesIO(content), Dribble(content)):
        monkeypatch.setattr(sys, "stdin", type("Standard", (), {"buffer": source}))
        with pytest.raises(InputError, match="compressed data is damaged"):
            list(read_capture("-"))
    with pytest.raises(InputError, match="compressed data is damaged"):
        list(read_capture(capture(content)))


def test_a_cut_anywhere_is_told_or_gives_the_whole_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("gzip members", "zstd frames"):
        content = FORMS[form]
        for cut in range(0, len(content), 37):
            monkeypatch.setattr(sys, "stdin", type("Standard", (), {"buffer": io.BytesIO(content[:cut])}))
            got = bytearray()
            try:
                for chunk in read_capture("-", 999):
                    got += chunk
            except InputError as error:
                assert "standard input: " in str(error)  # noqa: PT017
            else:
                # Only between two members or frames can a cut go unnoticed here.
                assert len(got) == len(STREAM) // 2 - len(START)
            assert PHASE.startswith(bytes(got))


@pytest.mark.parametrize("name", ["unbound", "dnsdist", "mutated"])
def test_bundled_captures(name: str) -> None:
    path = framestream.CAPTURES / name / "input.fstrm.zst"
    phase = b"".join(read_capture(path, 100_000))
    assert framestream.frames_of(phase) == capture_frames(name)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.sampled_from(sorted(FORMS)))
def test_any_sizes_of_reads(sizes: list[int], form: str) -> None:
    source = io.BytesIO(FORMS[form])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", type("Standard", (), {"buffer": source}))
        reader = CaptureReader("-")
        got = bytearray()
        turn = 0
        while True:
            view = memoryview(bytearray(sizes[turn % len(sizes)]))
            count = reader.readinto(view)
            if count == 0:
                break
            got += view[:count]
            turn += 1
    assert got == PHASE


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (gz(b""), "is empty"),
        (zst(b""), "is empty"),
        (b"\0", "ends at byte 1, inside the START frame"),
        (START[:-1], f"ends at byte {len(START) - 1}, inside the START frame"),
        (zst(START[:9]), "inside the START frame"),
        (b"hello, world, this is no capture", "not a Frame Streams file: data where a control frame"),
        (data(b"frame"), "not a Frame Streams file: data where a control frame"),
        (gz(b"hello, world"), "not a Frame Streams file"),
        (bytes(64), "not a Frame Streams file: control frame of 0 bytes"),
        (b"\0\0\0\0\xff\xff\xff\xff", "not a Frame Streams file: control frame of 4294967295 bytes"),
        (control(2, b"protobuf:other"), "has content type 'protobuf:other', expected protobuf:dnstap.Dnstap"),
        (control(4, CONTENT_TYPE), "begins with READY, expected START"),
        (b"\x1f\x8b\xff\xff", "compressed data is damaged"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 30, "compressed data is damaged"),
        (b"\x1f\x8b\x08\0\0\0", "compressed data is cut off at byte 6"),
        (b"\x28\xb5\x2f\xfd", "compressed data is cut off at byte 4"),
    ],
)
def test_what_is_no_capture_is_refused_with_name_and_reason(
    content: bytes, reason: str, capture: Any
) -> None:
    path = capture(content)
    with pytest.raises(InputError) as caught:
        CaptureReader(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


def test_start_without_content_type_is_taken(capture: Any) -> None:
    assert b"".join(read_capture(capture(control(2) + PHASE))) == PHASE


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing: cannot be opened: No such file"):
        CaptureReader(tmp_path / "missing")
    with pytest.raises(InputError, match=r"Is a directory"):
        CaptureReader(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(capture: Any) -> None:
    path = capture(STREAM)
    path.chmod(0)
    with pytest.raises(InputError, match=r"Permission denied"):
        CaptureReader(path)


@pytest.mark.parametrize("pack", [gz, zst])
@pytest.mark.parametrize("missing", [1, 3, 8, 300])
def test_truncated_compression_delivers_what_is_there_first(pack: Any, missing: int, capture: Any) -> None:
    content = pack(START + data(*FRAMES, NOISE))
    cut = len(content) - missing
    with CaptureReader(capture(content[:cut])) as reader:
        got = bytearray()
        view = memoryview(bytearray(5000))
        with pytest.raises(InputError, match=rf"compressed data is cut off at byte {cut}$"):  # noqa: PT012
            while count := reader.readinto(view):
                got += view[:count]
        assert reader.truncated
        located, _, _ = framestream.split(bytes(got), 1 << 18)
        assert [bytes(got[o : o + n]) for o, n in located[: len(FRAMES)]] == FRAMES
        with pytest.raises(InputError, match="cut off"):
            reader.readinto(view)


@pytest.mark.parametrize("pack", [gz, zst])
def test_damaged_compression(pack: Any, capture: Any) -> None:
    content = bytearray(pack(STREAM + NOISE))
    content[-4000] ^= 0x55
    with pytest.raises(InputError, match=r"compressed data is (damaged|cut off)"):
        list(read_capture(capture(bytes(content))))


@pytest.mark.parametrize("pack", [gz, zst])
def test_garbage_behind_compressed_data(pack: Any, capture: Any) -> None:
    got = bytearray()
    with pytest.raises(InputError, match="damaged"):  # noqa: PT012
        for chunk in read_capture(capture(pack(STREAM) + b"garbage behind it")):
            got += chunk
    assert got == PHASE


def test_a_file_that_ends_inside_a_frame(capture: Any) -> None:
    whole = START + data(b"one", b"two")
    with CaptureReader(capture(whole + b"\0\0\0\x09part")) as reader:
        view = memoryview(bytearray(1000))
        got = reader.readinto(view)
        assert reader.readinto(view) == 0
        _, rest, _ = framestream.split(bytes(view[:got]), 100)
        with pytest.raises(InputError, match=rf"ends inside the frame that begins at byte {len(whole)}$"):
            reader.check_end(got - rest)
        assert reader.truncated


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_memory_stays_bounded(form: str, capture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # 64 MiB of zeros compress to a few kilobytes.
    zeros = START + bytes(64 << 20)
    path = capture(gz(zeros) if form == "gzip" else zst(zeros))
    assert path.stat().st_size < 400_000
    largest = 0
    view = memoryview(bytearray(1 << 16))
    total = 0
    with CaptureReader(path) as reader:
        while count := reader.readinto(view):
            total += count
            held = getattr(reader._source, "_output", b"")
            largest = max(largest, len(held), len(reader._source._input))  # type: ignore[attr-defined]
    assert total == 64 << 20
    assert largest <= 34 << 20


def test_progress(capture: Any) -> None:
    path = capture(FORMS["plain"])
    with CaptureReader(path) as reader:
        assert reader.size == len(STREAM)
        seen = [reader.compressed_position]
        while reader.readinto(memoryview(bytearray(10_000))):
            seen.append(reader.compressed_position)
    assert seen == sorted(seen)
    assert seen[-1] == len(STREAM)


def test_files_are_closed(capture: Any) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for form in FORMS:
        list(read_capture(capture(FORMS[form])))
        with pytest.raises(InputError):
            CaptureReader(capture(b"no capture"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


class Xz(reading._Compressed):
    """Another compression, as the architecture page tells to add one."""

    def __init__(self, file: reading._File) -> None:
        super().__init__(file)
        self._decompressor = lzma.LZMADecompressor()

    def _piece(self, view: memoryview) -> int:
        while not self._decompressor.eof:
            more = self._file.read(1 << 10) if self._decompressor.needs_input else b""
            if out := self._decompressor.decompress(more, len(view)):
                view[: len(out)] = out
                return len(out)
        return 0


def test_another_compression_is_told_by_its_first_bytes_and_its_errors_are_one_line(
    capture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = CaptureReader._open_source

    def open_source(reader: CaptureReader) -> Any:
        is_xz = reader._file.head.startswith(b"\xfd7zXZ\0")
        return Xz(reader._file) if is_xz else known(reader)

    monkeypatch.setattr(CaptureReader, "_open_source", open_source)
    monkeypatch.setattr(reading, "_DAMAGED", (*reading._DAMAGED, lzma.LZMAError))
    packed = lzma.compress(STREAM)
    assert b"".join(read_capture(capture(packed))) == PHASE
    assert b"".join(read_capture(capture(zst(STREAM)))) == PHASE
    middle = len(packed) // 2
    damaged = packed[:middle] + bytes(64) + packed[middle + 64 :]
    with pytest.raises(InputError, match="compressed data is damaged before byte"):
        list(read_capture(capture(damaged)))


def test_a_pipe_that_holds_the_shortest_start_and_nothing_yet_is_opened() -> None:
    out, into = os.pipe()
    try:
        os.write(into, control(2))
        with CaptureReader(f"/dev/fd/{out}") as reader:
            assert reader.position == len(control(2))
    finally:
        os.close(into)
        os.close(out)
