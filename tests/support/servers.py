"""Real DNS programs for the end-to-end tests: unbound, dnsdist, dnsperf, and the tools of libfstrm."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.processes import (
    Server,
    end_child,
    find,
    free_port,
    has_ipv6,
    listening,
    need,
    start_child,
    wait_until,
)

CONTENT_TYPE = "protobuf:dnstap.Dnstap"
_ENDLESS = 50.0  # seconds; far above anything a loopback takes, so that nothing is ever asked or lost twice


@dataclass(frozen=True)
class DnstapTarget:
    """Where a DNS server sends its dnstap: a Unix socket or a port on loopback, over TLS if files are given.

    ``name`` is what the receiver's certificate must say; ``client`` the sender's own certificate and key.
    """

    unix: Path | None = None
    port: int = 0
    authority: Path | None = None
    name: str = ""
    client: tuple[Path, Path] | None = None


class Unbound(Server):
    """unbound, answering from local data alone: listed names exist, everything else is NXDOMAIN.

    Parameters
    ----------
    records : iterable of str
        Resource records in presentation form.
    refused : iterable of str
        Domains below which every question is refused.
    """

    program = "unbound"

    def __init__(
        self,
        folder: Path,
        records: Iterable[str],
        dnstap: DnstapTarget | None = None,
        *,
        refused: Iterable[str] = (),
        identity: str = "unbound.test",
        queries: bool = True,
    ) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.ipv6 = has_ipv6()
        self._records = records
        self._refused = refused
        self._dnstap = dnstap
        self._identity = identity
        self._queries = queries

    def command(self) -> list[str | Path]:
        config = self.folder / "unbound.conf"
        lines = ["server:", *(f"  {line}" for line in self._server_lines())]
        if self._dnstap is not None:
            lines += ["dnstap:", *(f"  {line}" for line in self._dnstap_lines(self._dnstap))]
        lines += ["remote-control:", "  control-enable: no"]
        config.write_text("\n".join(lines) + "\n")
        return ["-d", "-c", config]

    def _server_lines(self) -> Iterable[str]:
        yield f'directory: "{self.folder}"'
        yield f'pidfile: "{self.folder / "unbound.pid"}"'
        yield 'chroot: ""'
        yield 'username: ""'
        yield "do-daemonize: no"
        yield "use-syslog: no"
        yield "verbosity: 1"
        yield "num-threads: 1"
        yield 'module-config: "iterator"'  # no validator, hence no trust anchor and nothing to look up
        yield f"interface: 127.0.0.1@{self.port}"
        yield "access-control: 127.0.0.0/8 allow"
        if self.ipv6:
            yield f"interface: ::1@{self.port}"
            yield "access-control: ::1/128 allow"
        yield 'local-zone: "." static'
        for domain in self._refused:
            yield f'local-zone: "{domain}" refuse'
        for record in self._records:
            yield f"local-data: '{record}'"

    def _dnstap_lines(self, target: DnstapTarget) -> Iterable[str]:
        yield "dnstap-enable: yes"
        yield "dnstap-send-identity: yes"
        yield "dnstap-send-version: yes"
        yield f'dnstap-identity: "{self._identity}"'
        yield "dnstap-log-client-response-messages: yes"
        yield f"dnstap-log-client-query-messages: {'yes' if self._queries else 'no'}"
        if target.unix is not None:
            yield f'dnstap-socket-path: "{target.unix}"'
            return
        yield f"dnstap-ip: 127.0.0.1@{target.port}"
        yield f"dnstap-tls: {'yes' if target.authority else 'no'}"
        if target.authority:
            yield f'dnstap-tls-cert-bundle: "{target.authority}"'
            yield f'dnstap-tls-server-name: "{target.name}"'
        if target.client:
            yield f'dnstap-tls-client-cert-file: "{target.client[0]}"'
            yield f'dnstap-tls-client-key-file: "{target.client[1]}"'

    def is_up(self) -> bool:
        return listening(self.port)


class Dnsdist(Server):
    """dnsdist in front of a backend on loopback, sending dnstap of its own for questions and answers.

    Parameters
    ----------
    fail : iterable of str
        Domains below which dnsdist itself answers SERVFAIL.
    """

    program = "dnsdist"

    def __init__(
        self,
        folder: Path,
        backend: int,
        dnstap: DnstapTarget,
        *,
        fail: Iterable[str] = (),
        identity: str = "dnsdist.test",
    ) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._backend = backend
        self._dnstap = dnstap
        self._fail = fail
        self._identity = identity

    def command(self) -> list[str | Path]:
        target = self._dnstap
        # The queue between dnsdist and its writer drops when it is full: room for all that a test asks.
        options = "{inputQueueSize=16384, flushTimeout=1, queueNotifyThreshold=32, reopenInterval=1}"
        logger = (
            f'newFrameStreamUnixLogger("{target.unix}", {options})'
            if target.unix is not None
            else f'newFrameStreamTcpLogger("127.0.0.1:{target.port}", {options})'
        )
        domains = ", ".join(f'"{domain}"' for domain in self._fail)
        config = self.folder / "dnsdist.conf"
        config.write_text(
            f"""setLocal("127.0.0.1:{self.port}")
setACL({{"127.0.0.0/8"}})
setSecurityPollSuffix("")
backend = newServer({{address="127.0.0.1:{self._backend}"}})
backend:setUp()
dnstap = {logger}
addAction(AllRule(), DnstapLogAction("{self._identity}", dnstap))
addResponseAction(AllRule(), DnstapLogResponseAction("{self._identity}", dnstap))
addSelfAnsweredResponseAction(AllRule(), DnstapLogResponseAction("{self._identity}", dnstap))
"""
            + (f"addAction({{{domains}}}, RCodeAction(DNSRCode.SERVFAIL))\n" if domains else "")
        )
        return ["--supervised", "--config", config]

    def is_up(self) -> bool:
        return listening(self.port)


@dataclass(frozen=True)
class Answers:
    """What dnsperf says of a run: questions sent, and answers by RCODE mnemonic."""

    sent: int
    rcodes: Mapping[str, int]


def start_dnsperf(
    query_file: Path,
    port: int,
    *,
    server: str = "127.0.0.1",
    client: str = "127.0.0.1",
    mode: str = "udp",
    rate: int = 0,
) -> subprocess.Popen[bytes]:
    """Begin to ask every question of ``query_file`` once, from the address ``client``.

    ``rate`` is the most questions a second, if not 0. :func:`finish_dnsperf` waits for the end.
    """
    need("dnsperf")
    family = "inet6" if ":" in client else "inet"
    where = ["-f", family, "-m", mode, "-s", server, "-p", str(port), "-a", client]
    # Few questions on the way at a time, so that no socket buffer overflows.
    how = ["-n", "1", "-q", "20", "-t", str(_ENDLESS), "-c", "1", "-T", "1", "-W"]
    if rate:
        how += ["-Q", str(rate)]
    command = [str(find("dnsperf")), *where, *how, "-d", str(query_file)]
    return start_child(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish_dnsperf(process: subprocess.Popen[bytes]) -> Answers:
    """Wait for dnsperf's end and read its report.

    Fails the test if a question was lost: it would be a question too few or, asked again, one too many.
    """
    try:
        output = process.communicate(timeout=_ENDLESS)[0].decode(errors="replace")
    finally:
        end_child(process)

    def number(label: str) -> int:
        found = re.search(rf"{label}:\s+(\d+)", output)
        if found is None:
            pytest.fail(f"dnsperf did not report '{label}':\n{output}")
        return int(found[1])

    sent = number("Queries sent")
    assert process.returncode == 0, output
    assert number("Queries completed") == sent, output
    assert number("Queries lost") == 0, output
    codes = re.search(r"Response codes:\s+(.*)", output)
    assert codes is not None, output
    return Answers(sent, {code: int(count) for code, count in re.findall(r"(\w+) (\d+) \(", codes[1])})


def where_to_send(target: DnstapTarget) -> list[str]:
    """Return the options by which the tools of libfstrm know a Unix socket or a TCP port."""
    if target.unix is not None:
        return ["-u", str(target.unix)]
    return ["-a", "127.0.0.1", "-p", str(target.port)]


def fstrm_replay(target: DnstapTarget, captures: Sequence[Path], patience: float = 60.0) -> None:
    """Send uncompressed Frame Streams files over one connection with libfstrm's own sender."""
    need("fstrm_replay")
    files = [word for path in captures for word in ("-r", str(path))]
    command = [str(find("fstrm_replay")), "-t", CONTENT_TYPE, *where_to_send(target), *files]
    process = start_child(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output = process.communicate(timeout=patience)[0]
    finally:
        end_child(process)
    assert process.returncode == 0, output.decode(errors="replace")


class FstrmCapture(Server):
    """fstrm_capture, the receiver that comes with libfstrm: writes what it receives to :attr:`file`.

    With ``trace`` it logs every frame, see :meth:`wait_for_frames`.
    """

    program = "fstrm_capture"

    def __init__(self, folder: Path, target: DnstapTarget, *, trace: bool = False) -> None:
        super().__init__(folder)
        self.target = target
        self.trace = trace
        self.file = folder / "captured.fstrm"

    def command(self) -> list[str | Path]:
        return [
            "-t",
            CONTENT_TYPE,
            *where_to_send(self.target),
            "-w",
            self.file,
            "-ddddd" if self.trace else "-d",
        ]

    def is_up(self) -> bool:
        # Not by connecting: that would be a sender of its own.
        return "opened" in self.log() and self.file.exists()

    def wait_for_frames(self, count: int) -> None:
        """Wait until ``count`` frames have come."""
        assert self.trace
        wait_until(lambda: self.log().count("processing data frame") >= count, f"{count} frames have come")

    def stop(self) -> int:
        """End it as a terminal would, upon which it writes out what it has."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                pass
        return super().stop()
