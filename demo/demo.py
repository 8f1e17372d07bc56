"""The demonstration behind ``make demo``: a resolver's capture through the daemon, and what came out."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from ipaddress import IPv4Address
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CAPTURE = ROOT / "tests/captures/unbound/input.fstrm.zst"
DOMAINS = ROOT / "tests/captures/lists/well-known.dawg"
EDM = Path(sys.executable).with_name("edm")
SHOWN = 10
RESPONSES = ("a_count", "aaaa_count", "mx_count", "ns_count", "other_type_count", "non_in_count")
"""The columns that count each response once."""

console = Console(width=100, highlight=False)


def run(*arguments: str | Path, quiet: bool = False) -> None:
    """Run a command of the program and show it."""
    words = [str(argument) for argument in arguments]
    console.print("[dim]$ edm " + " ".join(words), soft_wrap=True)
    subprocess.run([str(EDM), *words], check=True, stdout=subprocess.DEVNULL if quiet else None)


def wait_for_socket(daemon: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    """Wait until the daemon listens."""
    while not path.is_socket():
        if daemon.poll() is not None:
            sys.stderr.write(log.read_text(errors="replace"))
            raise SystemExit("the daemon did not start, see its log above")
        time.sleep(0.05)


def ask(address: str, path: str, method: str = "GET") -> str:
    """Ask one of the daemon's HTTP endpoints."""
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def free_port() -> int:
    """Return a port that nobody listens on now."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_files(folder: Path, patterns: list[str]) -> None:
    """Wait until a file of each pattern is there: the writers work beside the rotation."""
    deadline = time.monotonic() + 30
    while not all(list(folder.glob(pattern)) for pattern in patterns):
        if time.monotonic() > deadline:
            raise SystemExit("no output files were written")
        time.sleep(0.05)


def read(folder: Path) -> pa.Table:
    """Return the rows of all Parquet files of a folder."""
    return pq.ParquetDataset(str(folder)).read()


def names_of(rows: pa.Table, labels: range) -> list[str]:
    """Join the columns label0, label1, ... of each row to a name; label0 is the rightmost."""
    columns = [rows[f"label{i}"].to_pylist() for i in reversed(labels)]
    return [".".join(label for label in labels if label is not None) for labels in zip(*columns, strict=True)]


def show_histogram(folder: Path) -> None:
    """Print the most frequent well-known domains."""
    rows = read(folder)
    numbers = [rows[column].to_pylist() for column in ("nx_count", "v4client_count", "v6client_count")]
    responses = [sum(counts) for counts in zip(*(rows[name].to_pylist() for name in RESPONSES), strict=True)]
    found = sorted(
        zip(names_of(rows, range(10)), responses, *numbers, strict=True), key=lambda row: (-row[1], row[0])
    )

    table = Table(title="Well-known domains, by responses", title_justify="left")
    for column in ("domain", "responses", "NXDOMAIN", "IPv4 clients", "IPv6 clients"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for name, *counts in found[:SHOWN]:
        table.add_row(name, *(f"{count:,}" for count in counts))
    console.print(table)


def show_sessions(folder: Path) -> None:
    """Print the most frequent of all other names."""
    rows = read(folder)
    names = names_of(rows, range(2))
    first: dict[str, int | None] = {}
    for name, address in zip(names, rows["source_ipv4"].to_pylist(), strict=True):
        if first.get(name) is None:
            first[name] = address

    table = Table(title="Other names: sessions, clients pseudonymised", title_justify="left")
    for column in ("domain", "rows", "first pseudonym seen"):
        table.add_column(column, justify="right" if column == "rows" else "left")
    for name, count in sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))[:5]:
        address = first[name]
        table.add_row(name, f"{count:,}", "IPv6" if address is None else str(IPv4Address(address)))
    console.print(table)


def show_ledger(metrics: str) -> None:
    """Print what became of all frames."""
    table = Table(title="The ledger: every frame has exactly one fate", title_justify="left")
    table.add_column("fate")
    table.add_column("frames", justify="right")
    fates = dict(re.findall(r'^edm_frames_total\{fate="(\w+)"\} (\d+)', metrics, re.M))
    for name, count in fates.items():
        if count != "0":
            table.add_row(name.replace("_", " "), f"{int(count):,}")
    received = re.search(r"^edm_frames_received_total (\d+)", metrics, re.M)
    table.add_section()
    table.add_row("all", f"{sum(map(int, fates.values())):,}")
    table.add_row("received", f"{int(received[1]) if received else 0:,}")
    console.print(table)

    names = re.search(r"^edm_seen_names (\d+)", metrics, re.M)
    console.print(f"names never seen before: {int(float(names[1])) if names else 0:,}\n")


def show_hints(parquet: Path) -> None:
    """Print the files and commands that look into them, which run as they stand."""
    files = sorted(parquet.rglob("*.parquet"))
    console.print("The files:")
    for path in files:
        console.print(f"  {path}  ({path.stat().st_size:,} bytes)", soft_wrap=True)
    console.print("\nLook into them:")
    reading = "import sys, pyarrow.parquet as pq; print(pq.read_table(sys.argv[1]))"
    for command in ([EDM, "inspect", *files], [sys.executable, "-c", reading, parquet / "sessions"]):
        console.print("  " + shlex.join(map(str, command)), soft_wrap=True, markup=False)


def main() -> None:
    """Run the demonstration."""
    home = Path(tempfile.mkdtemp(prefix="edm-demo-"))
    folder, log = home / "edm", home / "edm.log"
    run("init", folder, quiet=True)
    # The capture was made with names of its own: it brings its list along.
    shutil.copy(DOMAINS, folder / "well-known-domains.dawg")
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        str(EDM), "run", "--config-file", str(folder / "edm.toml"), "--metrics-address", address,
        "--debug-address=", "--enable-manual-parquet-rotation",
    ]  # fmt: skip
    console.print("[dim]$ edm " + " ".join(arguments[1:]) + f" 2> {log} &", soft_wrap=True)
    console.print("[dim](its first start compiles the kernels, which takes about 20 seconds)")
    # The log lines would stand among the tables.
    with log.open("wb") as lines:
        daemon = subprocess.Popen(arguments, stderr=lines)
    try:
        sock = folder / "dnstap.sock"
        wait_for_socket(daemon, sock, log)
        began = time.monotonic()
        run("replay", "--unix", sock, CAPTURE)
        ask(address, "/debug/rotate-parquet", "POST")
        console.print(f"[dim]replayed and rotated in {time.monotonic() - began:.2f} s\n")
        parquet = folder / "data/parquet"
        wait_for_files(parquet, ["sessions/*.parquet", "histograms/outbox/*.parquet"])
        show_histogram(parquet / "histograms/outbox")
        show_sessions(parquet / "sessions")
        show_ledger(ask(address, "/metrics"))
        show_hints(parquet)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
    console.print(f"\nEverything is in {home}, the daemon's log too; remove it when you have seen enough.")


if __name__ == "__main__":
    main()
