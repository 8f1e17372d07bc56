"""The demonstration behind ``make demo``: a resolver's capture through the daemon, and what came out."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CAPTURE = ROOT / "tests/captures/unbound/input.fstrm.zst"
DOMAINS = ROOT / "tests/captures/lists/well-known.dawg"
EDM = Path(sys.executable).with_name("edm")
SHOWN = 10

console = Console(width=100, highlight=False)


def run(*arguments: str | Path) -> None:
    """Run a command of the program and show it."""
    words = [str(argument) for argument in arguments]
    console.print("[dim]$ edm " + " ".join(words))
    subprocess.run([str(EDM), *words], check=True)


def wait_for_socket(daemon: subprocess.Popen[bytes], path: Path) -> None:
    """Wait until the daemon listens."""
    while not path.is_socket():
        if daemon.poll() is not None:
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


def show(data: Path, metrics: str) -> None:
    """Print what came out."""
    histograms = str(data / "parquet/histograms/outbox/*.parquet")
    sessions = str(data / "parquet/sessions/*.parquet")
    label = "concat_ws('.', " + ", ".join(f"label{i}" for i in reversed(range(10))) + ")"
    queries = "(a_count + aaaa_count + mx_count + ns_count + other_type_count + non_in_count)"

    table = Table(title="Well-known domains, by responses", title_justify="left")
    for column in ("domain", "responses", "NXDOMAIN", "IPv4 clients", "IPv6 clients"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    rows = duckdb.sql(
        f"SELECT {label}, {queries} AS n, nx_count, v4client_count, v6client_count "
        f"FROM '{histograms}' ORDER BY n DESC, 1 LIMIT {SHOWN}"
    ).fetchall()
    for row in rows:
        table.add_row(row[0], *(f"{number:,}" for number in row[1:]))
    console.print(table)

    table = Table(title="Other names: sessions, clients pseudonymised", title_justify="left")
    for column in ("domain", "rows", "first pseudonym seen"):
        table.add_column(column, justify="right" if column == "rows" else "left")
    address = "printf('%d.%d.%d.%d', ip >> 24, (ip >> 16) & 255, (ip >> 8) & 255, ip & 255)"
    rows = duckdb.sql(
        f"SELECT name, n, coalesce({address}, 'IPv6') FROM (SELECT concat_ws('.', label1, label0) AS name, "
        f"count(*) AS n, first(source_ipv4) AS ip FROM '{sessions}' GROUP BY 1) ORDER BY n DESC, 1 LIMIT 5"
    ).fetchall()
    for row in rows:
        table.add_row(row[0], f"{row[1]:,}", row[2])
    console.print(table)

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
    console.print("The files:")
    for path in sorted(data.rglob("*.parquet")):
        console.print(f"  {path}  ({path.stat().st_size:,} bytes)", soft_wrap=True)
    console.print("\nOpen them, for example with DuckDB or pyarrow:")
    console.print(f"  duckdb -c \"SELECT * FROM '{sessions}' LIMIT 5\"", soft_wrap=True, markup=False)
    console.print(
        f"  python -c \"import pyarrow.parquet as p; print(p.read_table('{data}/parquet/sessions'))\"",
        soft_wrap=True,
        markup=False,
    )


def main() -> None:
    """Run the demonstration."""
    home = Path(tempfile.mkdtemp(prefix="edm-demo-"))
    folder = home / "edm"
    run("init", folder)
    # The capture was made with names of its own: it brings its list along.
    shutil.copy(DOMAINS, folder / "well-known-domains.dawg")
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        str(EDM), "run", "--config-file", str(folder / "edm.toml"), "--metrics-address", address,
        "--debug-address=", "--enable-manual-parquet-rotation",
    ]  # fmt: skip
    console.print("[dim]$ edm " + " ".join(arguments[1:]) + " &")
    daemon = subprocess.Popen(arguments)
    try:
        sock = folder / "dnstap.sock"
        wait_for_socket(daemon, sock)
        began = time.monotonic()
        run("replay", "--unix", sock, CAPTURE)
        ask(address, "/debug/rotate-parquet", "POST")
        console.print(f"[dim]replayed and rotated in {time.monotonic() - began:.2f} s\n")
        wait_for_files(folder / "data/parquet", ["sessions/*.parquet", "histograms/outbox/*.parquet"])
        show(folder / "data", ask(address, "/metrics"))
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
    console.print(f"\nEverything is in {home}; remove it when you have seen enough.")


if __name__ == "__main__":
    main()
