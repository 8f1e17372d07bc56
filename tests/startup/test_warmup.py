"""Every kernel has run before READY, whatever the state of the folder of compiled kernels."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.config import Config
from edm.kernel.cache import Store
from edm.kernel.jit import JIT_DISABLED
from edm.stages.domains.dawg.writer import write_dawg
from edm.stages.pseudonyms.contract import Pseudonyms
from edm.stages.pseudonyms.cryptopan import PseudonymCache, Pseudonymiser
from edm.startup import sample, warmup
from edm.startup.sample import KernelError, sample_frame
from support.daemon import Daemon
from support.kernels import DAMAGES, environment, warm_copy
from support.small_disk import read_only

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="about compiled kernels")

CAPTURES = Path(__file__).parent.parent / "captures"
COMPILING = "compiling kernels, once for this version on this machine; this takes about 20 seconds"
NOT_KEPT = (
    "kernels cannot be kept: every start compiles them unless EDM_KERNEL_CACHE names a folder that only this user "
    "can write to"
)
FRAMES = [
    frame
    for number in range(500)
    for frame in (
        sample_frame(b"\x03www\x07example\x03com\x00", bytes([192, 0, 2, number % 250])),
        sample_frame(b"\x05h%04d\x07example\x03net\x00" % number, bytes([198, 51, 100, number % 250])),
    )
]


@pytest.fixture
def folder() -> Iterator[Path]:
    # A Unix socket's path is short, and that of a test's own folder is long.
    with tempfile.TemporaryDirectory(prefix="edm-test-") as name:
        yield Path(name)


def a_daemon(folder: Path, env: dict[str, str]) -> Daemon:
    (folder / "known.dawg").write_bytes(write_dawg(["www.example.com."]))
    return Daemon(
        folder / "edm",
        environment=env,
        input_unix=folder / "dnstap",
        well_known_domains_file=folder / "known.dawg",
    )


def all_accounted_for(daemon: Daemon) -> None:
    daemon.send([len(frame).to_bytes(4, "big") + frame for frame in FRAMES])
    assert daemon.metric("edm_frames_total", fate="well_known") == len(FRAMES) // 2
    assert daemon.metric("edm_frames_total", fate="session") == len(FRAMES) // 2
    assert daemon.stop() == 0, daemon.tail()
    assert daemon.errors() == [], daemon.tail()


def position(daemon: Daemon, message: str) -> int:
    return [entry.get("msg") for entry in daemon.log].index(message)


def test_the_pseudonyms_of_the_configuration_are_those_that_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Config] = []
    used: list[int] = []

    class Other(Pseudonymiser):
        def new_cache(self) -> PseudonymCache:
            used.append(1)
            return super().new_cache()

    def make(config: Config, secret: bytes) -> Pseudonyms:
        asked.append(config)
        return Other(secret, 16)

    monkeypatch.setattr(sample, "make_pseudonyms", make)
    sample.run_sample(Config(minimiser_workers=7, cryptopan_key="real"))
    assert [config.minimiser_workers for config in asked] == [7]
    assert asked[0].cryptopan_key != "real"
    assert used


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "damage"),
    [
        ("usual.decode_usual-*", "emptied"),
        ("row_kernels.append_rows-*", "cut off"),
        ("walk.walk_messages-*", "garbage"),
        ("lookup.lookup_domains-*", "a folder"),
        ("ledger.settle_fates-*", "one bit"),
        ("locate.locate_frames-*", "writable by others"),
    ],
)
def test_a_damaged_kernel_loses_no_frame(folder: Path, kernel: str, damage: str) -> None:
    kernels = warm_copy(folder / "kernels")
    files = sorted(
        kernels.glob(f"{kernel}.nbc")
    )  # one for each signature that this run of the tests has used
    assert files
    for file in files:
        DAMAGES[damage](file)
    with a_daemon(folder, environment(folder / "kernels")) as daemon:
        (warning,) = daemon.messages("kept kernels could not be used and were compiled again")
        assert 1 <= warning["count"] <= len(files)
        assert any(warning["reason"].startswith(f"{file}: ") for file in files)
        assert position(daemon, warning["msg"]) < position(daemon, "receiving dnstap")
        all_accounted_for(daemon)
    with a_daemon(folder, environment(folder / "kernels")) as daemon:
        assert not daemon.messages(warning["msg"])
        assert not daemon.messages(COMPILING)
        assert daemon.stop() == 0
    assert not list(kernels.glob("*.tmp"))


@pytest.mark.slow
def test_a_folder_with_all_kernels_that_cannot_be_written(folder: Path) -> None:
    kernels = warm_copy(folder / "kernels")
    before = sorted(path.name for path in kernels.iterdir())
    kernels.chmod(0o500)
    with read_only(folder / "kernels"), a_daemon(folder, environment(folder / "kernels")) as daemon:
        warnings = [entry["msg"] for entry in daemon.log if entry["level"] == "WARN"]
        assert [text for text in warnings if "cryptopan-key" not in text] == []
        assert not daemon.messages(COMPILING)
        all_accounted_for(daemon)
    assert sorted(path.name for path in kernels.iterdir()) == before
    kernels.chmod(0o700)


@pytest.mark.slow
def test_nowhere_to_keep_anything(folder: Path) -> None:
    """No home, no folder for kernels, none for temporary files: all is compiled in memory, before the first frame."""
    env = environment("/proc/nothing", TMPDIR="/proc/nothing")
    before = set(Path(tempfile.gettempdir()).iterdir())
    with a_daemon(folder, env) as daemon:
        assert position(daemon, COMPILING) < position(daemon, "kernels are compiled")
        (warning,) = daemon.messages(NOT_KEPT)
        assert "EDM_KERNEL_CACHE: /proc/nothing: " in warning["reason"]
        assert position(daemon, NOT_KEPT) < position(daemon, "receiving dnstap")
        all_accounted_for(daemon)
    left = set(Path(tempfile.gettempdir()).iterdir()) - before
    assert not {path for path in left if path.name.startswith(("edm-kernels", "edm-warm-up"))}


@pytest.mark.slow
def test_after_the_warm_up_nothing_is_compiled_or_loaded(tmp_path: Path) -> None:
    """Whatever comes later, with every list, with names seen by an earlier run, and with a growing store."""
    lists = {
        "ignored-client-ips-file": "ignored-clients",
        "ignored-question-names-file": "ignored.dawg",
        "well-known-domains-file": "known.dawg",
    }
    (tmp_path / "ignored-clients").write_text("10.0.0.0/8\n2001:db8::/32\n")
    (tmp_path / "ignored.dawg").write_bytes(write_dawg([".co.uk.", "example.org."]))
    (tmp_path / "known.dawg").write_bytes(write_dawg([".com.", "example.net.", "odd word"]))
    settings = "".join(f'{key} = "{tmp_path / name}"\n' for key, name in lists.items())
    settings += f'cryptopan-key = "x"\ndata-dir = "{tmp_path / "data"}"\ncryptopan-address-entries = 3000\n'
    settings += f'debug-dnstap-filename = "{tmp_path / "debug"}"\nqname-seen-store-entries = 20000\n'
    (tmp_path / "edm.toml").write_text(settings)
    captures = sorted(str(path) for path in CAPTURES.glob("*/input.fstrm.zst"))
    assert captures
    script = f"""
import gc
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from edm.captures.minimiser import minimise
from edm.config import load
from edm.startup.warmup import warm_up
def ready():
    return {{(d.py_func.__module__, d.__name__, str(s)) for d in gc.get_objects() if isinstance(d, Dispatcher)
             and d.py_func.__module__.startswith("edm.") for s in d.overloads}}
warm_up()
before = ready()
for _ in range(2):
    config = load(Path({str(tmp_path / "edm.toml")!r}), {{}}, {{}}, purpose="minimise")
    minimise(config, {captures!r}, lambda *_: None)
for what in sorted(ready() - before):
    print(what)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("(")] == []


def test_wrong_results_are_noticed_and_the_kernels_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Store(tmp_path, True, [])
    kept.save("a.nbc", b"identity", "code")
    monkeypatch.setattr(warmup, "store", lambda: kept)
    monkeypatch.setattr(warmup, "_start_precompiling", lambda: None)
    monkeypatch.setitem(sample._EXPECTED, "well_known", 5)
    with pytest.raises(KernelError, match="'well_known': 4"):
        warmup.warm_up()
    assert list(tmp_path.iterdir()) == []
