"""Compiling or loading the kernels before the first frame comes, by minimising a few made-up frames."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import structlog

from edm.config import Config
from edm.input.reader import FrameReader
from edm.kernel.jit import JIT_DISABLED, cache_is_cold, mark_cache_warm
from edm.observe.metrics import Metrics


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def sample_frame(name: bytes, client: bytes, message_type: int = 6) -> bytes:
    """Return a dnstap frame: a response to ``client`` about the wire name ``name`` (type A, class IN).

    Parameters
    ----------
    name : bytes
        Uncompressed wire form, root byte included.
    client : bytes
        4 or 16 bytes.
    message_type : int
        ``Message.type`` of dnstap; 6 is CLIENT_RESPONSE.
    """
    header = bytes.fromhex("123481800001000100000000")
    answer = bytes.fromhex("c00c000100010000003c0004") + bytes(4)
    response = header + name + bytes.fromhex("00010001") + answer
    message = (
        _field(1, message_type)
        + _field(2, 1 if len(client) == 4 else 2)
        + _field(3, 1)
        + _field(4, client)
        + _field(5, client)
        + _field(6, 53000)
        + _field(7, 53)
        + _field(12, 1_700_000_000)
        + _varint(13 << 3 | 5)
        + bytes(4)
        + _field(14, response)
    )
    return _field(1, b"sample") + _field(14, message) + _field(15, 1)


_FRAMES = (
    sample_frame(b"\x03www\x07example\x03com\x00", bytes([192, 0, 2, 1])),
    sample_frame(b"\x03new\x07example\x03net\x00", bytes([198, 51, 100, 7])),
    sample_frame(b"\x03sub\x07example\x03org\x00", bytes.fromhex("20010db8") + bytes(12)),
    sample_frame(b"\x07ignored\x07example\x00", bytes([203, 0, 113, 9])),
    sample_frame(b"\x07skipped\x07example\x00", bytes([10, 0, 0, 1])),
    # With a field that nobody knows, for the decoder of unusual frames.
    sample_frame(b"\x03www\x07example\x03com\x00", bytes([192, 0, 2, 1])) + _field(16, 1),
)

# DAWG files of ".example.org." with "www.example.com.", and of "ignored.example."; written out here because the
# daemon has no other use for the kernels that make such files.
_WELL_KNOWN = bytes.fromhex(
    "0000002f0709021c1d0052e3bf75e0e57c385daf0763955cef7939d5d0017bbdd5ce57c385daf0763955ce3779dada"
)
_IGNORED = bytes.fromhex("0000001d070801111074b9ddcef79395c8ae72be1c2ed783b1caae8010")


def warm_up_if_cold() -> None:
    """Compile the kernels unless that was done before, and announce it, since it takes a while.

    The whole engine is run once over a few frames in a scratch folder. With a warm cache nothing is done here: each
    kernel is loaded, within milliseconds, when it is first needed.
    """
    if JIT_DISABLED or not cache_is_cold():
        return
    log = structlog.get_logger()
    began = time.monotonic()
    log.info("compiling kernels, once for this version on this machine; this takes about 20 seconds")
    process = _start_precompiling()
    try:
        with tempfile.TemporaryDirectory(prefix="edm-warm-up-") as folder:
            _run_sample(Path(folder))
    finally:
        if process is not None:
            process.kill()  # whatever it has not compiled by now has been compiled here
            process.wait()
    mark_cache_warm()
    log.info("kernels are compiled", seconds=round(time.monotonic() - began, 1))


def _start_precompiling() -> subprocess.Popen[bytes] | None:
    if len(os.sched_getaffinity(0)) < 2:
        return None
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "edm.startup.precompile"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # it only saves time
        return None


def _run_sample(folder: Path) -> None:
    from edm.engine import Engine  # here, since the engine is what is being warmed up

    (folder / "well-known").write_bytes(_WELL_KNOWN)
    (folder / "ignored-names").write_bytes(_IGNORED)
    (folder / "ignored-clients").write_text("10.0.0.0/8\n2001:db8:ffff::/48\n")
    config = Config(
        cryptopan_key="warm-up",
        well_known_domains_file=str(folder / "well-known"),
        ignored_question_names_file=str(folder / "ignored-names"),
        ignored_client_ips_file=str(folder / "ignored-clients"),
        data_dir=str(folder / "data"),
        qname_seen_store_entries=1024,
    )
    engine = Engine(config, Metrics(), events=True)
    engine.start()
    try:
        frames = b"".join(len(frame).to_bytes(4, "big") + frame for frame in _FRAMES)
        FrameReader(engine.intake, config.max_frame_size).prime(frames)
        engine.intake.drain(300.0)
        engine.rotate()
        use_large_list()
    finally:
        engine.stop()


def use_large_list() -> None:
    """Use what only lists of hundreds of thousands of names need: one may come with a reload, under load."""
    from edm.stages.domains.dawg.dawg import Dawg
    from edm.stages.domains.table.table import DomainTable

    DomainTable.build(Dawg.from_bytes(_IGNORED), large=0).texts([0])
