"""DNS servers that run with the snippets of docs/operations.md; only the addresses are replaced."""

from __future__ import annotations

import itertools
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Self

from support.processes import Server, find, free_port, listening, need

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SOCKET = "/run/edm/dnstap.sock"
"""Where the snippets have the socket of the daemon."""

ZONE = "zone.example"
_ZONE_FILE = f"""$ORIGIN {ZONE}.
$TTL 300
@ SOA ns.{ZONE}. admin.{ZONE}. 1 3600 600 86400 300
@ NS ns.{ZONE}.
ns A 192.0.2.1
* A 192.0.2.2
"""


def _section() -> str:
    return PAGE.read_text(encoding="utf-8").split("\n## DNS servers\n")[1].split("\n## ")[0]


def snippet(server: str, number: int = 0) -> str:
    """Return a block of code, the first unless ``number`` says otherwise, below ``**server**``'s paragraph."""
    _, _, rest = _section().partition(f"\n**{server}**")
    assert rest, f"{PAGE.name} says nothing of {server}"
    own = rest.partition("\n**")[0].splitlines()
    groups = itertools.groupby(own, lambda line: not line or line.startswith("    "))
    blocks = [textwrap.dedent("\n".join(lines)).strip() for is_code, lines in groups if is_code]
    return [block for block in blocks if block][number] + "\n"


class Documented(Server):
    """A server whose dnstap is configured by a snippet of the page.

    It answers for names below :data:`ZONE`, each of which exists.
    """

    title = ""
    """How the page calls it."""

    block = 0
    """Which of the page's blocks of code for it fits its version."""

    def __init__(self, folder: Path, socket: Path, *, dnstap: bool = True) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.socket = socket
        self.tls: tuple[int, Path, Path] | None = None
        self.https: tuple[int, Path, Path] | None = None
        self._dnstap = dnstap

    def with_tls(self, port: int, certificate: Path, key: Path) -> Self:
        """Let it answer DNS over TLS as well, at ``port``; those that know how."""
        self.tls = port, certificate, key
        return self

    def with_https(self, port: int, certificate: Path, key: Path) -> Self:
        """Let it answer DNS over HTTPS as well, at ``port`` and ``/dns-query``; those that know how."""
        self.https = port, certificate, key
        return self

    def snippet(self) -> str:
        """Return the snippet, with the socket of the test; nothing if the server shall send no dnstap."""
        if not self._dnstap:
            return ""
        text = snippet(self.title, self.block)
        assert SOCKET in text
        return text.replace(SOCKET, str(self.socket))

    def write(self, name: str, text: str) -> Path:
        """Write a file into the server's folder."""
        path = self.folder / name
        path.write_text(text)
        return path

    def zone_file(self) -> Path:
        """Write the zone and return its path."""
        return self.write("zone", _ZONE_FILE)

    def is_up(self) -> bool:
        return listening(self.port)


class Unbound(Documented):
    title, program = "unbound", "unbound"

    def command(self) -> list[str | Path]:
        server = f"""server:
    directory: "{self.folder}"
    pidfile: ""
    chroot: ""
    username: ""
    do-daemonize: no
    use-syslog: no
    num-threads: 1
    module-config: "iterator"
    interface: 127.0.0.1@{self.port}
    access-control: 127.0.0.0/8 allow
    local-zone: "{ZONE}." redirect
    local-data: "{ZONE}. A 192.0.2.2"
{self._tls_lines()}
remote-control:
    control-enable: no
"""
        return ["-d", "-c", self.write("unbound.conf", server + self.snippet())]

    def _tls_lines(self) -> str:
        lines = ""
        for kind, where in (("tls", self.tls), ("https", self.https)):
            if where is not None:
                port, certificate, key = where
                lines += f"""    interface: 127.0.0.1@{port}
    {kind}-port: {port}
    tls-service-pem: "{certificate}"
    tls-service-key: "{key}"
"""
        return lines


class ForwardingUnbound(Unbound):
    """unbound that asks a backend, with the answers of the backend in its dnstap as well: not as the page says."""

    def __init__(self, folder: Path, socket: Path, backend: int) -> None:
        super().__init__(folder, socket)
        self._backend = backend

    def snippet(self) -> str:
        return f"""{super().snippet()}    dnstap-log-forwarder-response-messages: yes
server:
    do-not-query-localhost: no
    local-zone: "{ZONE}." transparent
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@{self._backend}
"""


class Bind(Documented):
    title, program = "BIND", "named"

    def command(self) -> list[str | Path]:
        own = f"""options {{
    directory "{self.folder}";
    pid-file none;
{self._lock_file()}
    session-keyfile "{self.folder}/session.key";
    listen-on port {self.port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    allow-transfer {{ any; }};
{self._tls_listener()}
"""
        opening, _, rest = self.snippet().partition("options {\n")
        config = f"""{self._tls_block()}{opening}{own}{rest}
controls {{ }};
zone "{ZONE}" {{ type primary; file "{self.zone_file()}"; }};
"""
        return ["-g", "-c", self.write("named.conf", config)]

    @staticmethod
    def _lock_file() -> str:
        # Several run at once here. Later versions have neither such a file nor the option.
        return "    lock-file none;" if version_of("BIND") < (9, 20) else ""

    def is_up(self) -> bool:
        return "all zones loaded" in self.log() and super().is_up()  # it listens before that

    def _tls_listener(self) -> str:
        lines = "" if self.tls is None else f"    listen-on port {self.tls[0]} tls own {{ 127.0.0.1; }};"
        if self.https is not None:
            lines += f"    listen-on port {self.https[0]} tls own http default {{ 127.0.0.1; }};"
        return lines

    def _tls_block(self) -> str:
        if (where := self.tls or self.https) is None:
            return ""
        return f'tls own {{ cert-file "{where[1]}"; key-file "{where[2]}"; }};\n'


class Knot(Documented):
    title, program = "Knot DNS", "knotd"

    def __init__(self, folder: Path, socket: Path) -> None:
        super().__init__(folder, socket)
        if not any(Path("/usr").glob("lib*/**/knot/modules-*/dnstap.so")):
            need("knot-module-dnstap")  # a package without a program

    def command(self) -> list[str | Path]:
        config = f"""server:
    rundir: "{self.folder}"
    listen: 127.0.0.1@{self.port}
log:
  - target: stderr
    any: info
database:
    storage: "{self.folder}"
acl:
  - id: transfer
    address: 127.0.0.0/8
    action: transfer
{self.snippet()}
zone:
  - domain: {ZONE}
    file: "{self.zone_file()}"
    zonefile-sync: -1
    journal-content: none
    acl: transfer
"""
        return ["-c", self.write("knot.conf", config)]


class KnotResolver(Documented):
    title, program = "Knot Resolver", "kresd"

    def command(self) -> list[str | Path]:
        config = f"""net.listen('127.0.0.1', {self.port}, {{ kind = 'dns' }})
cache.storage = 'lmdb://{self.folder}'
trust_anchors.remove('.')
policy.add(policy.suffix(policy.ANSWER({{ [kres.type.A] = {{ rdata = '\\192\\000\\002\\002' }} }}),
    {{ todname('{ZONE}') }}))
{self.snippet()}
"""
        return ["-n", "-q", "-c", self.write("kresd.conf", config), self.folder]


class Nsd(Documented):
    title, program = "NSD", "nsd"

    def command(self) -> list[str | Path]:
        config = f"""server:
    ip-address: 127.0.0.1@{self.port}
    username: ""
    chroot: ""
    zonesdir: "{self.folder}"
    database: ""
    pidfile: "{self.folder}/nsd.pid"
    xfrdfile: "{self.folder}/xfrd.state"
    xfrdir: "{self.folder}"
    zonelistfile: "{self.folder}/zone.list"
    rrl-ratelimit: 0
{self._tls_lines()}
remote-control:
    control-enable: no
{self.snippet()}
zone:
    name: "{ZONE}"
    zonefile: "{self.zone_file()}"
    provide-xfr: 127.0.0.0/8 NOKEY
"""
        return ["-d", "-c", self.write("nsd.conf", config)]

    def _tls_lines(self) -> str:
        if self.tls is None:
            return ""
        port, certificate, key = self.tls
        return f"""    ip-address: 127.0.0.1@{port}
    tls-port: {port}
    tls-service-pem: "{certificate}"
    tls-service-key: "{key}"
"""


class Dnsdist(Documented):
    title, program = "dnsdist", "dnsdist"

    def __init__(self, folder: Path, socket: Path, backend: int) -> None:
        super().__init__(folder, socket)
        self._backend = backend

    def command(self) -> list[str | Path]:
        config = f"""setLocal("127.0.0.1:{self.port}")
setACL({{"127.0.0.0/8"}})
setSecurityPollSuffix("")
newServer({{address="127.0.0.1:{self._backend}"}}):setUp()
{self._local("addTLSLocal", self.tls)}
{self._local("addDOHLocal", self.https)}
{self.snippet()}
"""
        return ["--supervised", "--config", self.write("dnsdist.conf", config)]

    def _local(self, function: str, where: tuple[int, Path, Path] | None) -> str:
        if where is None:
            return ""
        port, certificate, key = where
        path = ', "/dns-query"' if function == "addDOHLocal" else ""
        return f'{function}("127.0.0.1:{port}", "{certificate}", "{key}"{path})'


class Recursor(Documented):
    """PowerDNS Recursor, which asks a backend for everything."""

    title, program = "PowerDNS Recursor", "pdns_recursor"

    def __init__(self, folder: Path, socket: Path, backend: int) -> None:
        super().__init__(folder, socket)
        self._backend = backend
        self._yaml = version_of(self.title) >= (5, 1)
        self.block = 0 if self._yaml else 1

    def command(self) -> list[str | Path]:
        if not self._yaml:
            return self._options()
        settings = f"""recursor:
  socket_dir: "{self.socket.parent}"
  forward_zones_recurse:
    - zone: "."
      forwarders: ["127.0.0.1:{self._backend}"]
  threads: 1
  security_poll_suffix: ""
  hint_file: "no"
incoming:
  listen: ["127.0.0.1"]
  port: {self.port}
outgoing:
  dont_query: []
dnssec:
  validation: "off"
{self.snippet()}"""
        self.write("recursor.yml", settings)
        return [f"--config-dir={self.folder}"]

    def _options(self) -> list[str | Path]:
        lua = self.write("recursor.lua", self.snippet())
        options = {
            "config-dir": self.folder,
            "socket-dir": self.socket.parent,  # the path of its control socket may not be long
            "local-address": "127.0.0.1",
            "local-port": self.port,
            "lua-config-file": lua,
            "forward-zones-recurse": f".=127.0.0.1:{self._backend}",
            "dnssec": "off",
            "threads": 1,
            "security-poll-suffix": "",
            "dont-query": "",
            "hint-file": "no",
            "daemon": "no",
        }
        return [f"--{key}={value}" for key, value in options.items()]


def version_of(title: str) -> tuple[int, ...]:
    """Return the version of a server, as the page calls it: (9, 18, 33)."""
    program, flag = {
        "BIND": ("named", "-v"),
        "unbound": ("unbound", "-V"),
        "PowerDNS Recursor": ("pdns_recursor", "--version"),
    }[title]
    need(program)
    shown = subprocess.run([str(find(program)), flag], capture_output=True, text=True, timeout=30)
    found = re.search(r"\d+(?:\.\d+)+", shown.stdout + shown.stderr)
    assert found is not None, shown
    return tuple(map(int, found[0].split(".")))


def questions(path: Path, count: int, prefix: str = "host") -> Path:
    """Write ``count`` questions for different names below :data:`ZONE`, as dnsperf reads them."""
    path.write_text("".join(f"{prefix}-{number}.{ZONE}. A\n" for number in range(count)))
    return path


def titles() -> list[str]:
    """Return the servers of which the page has a snippet, as it calls them."""
    return re.findall(r"^\*\*([^*]+)\*\*", _section(), re.MULTILINE)
