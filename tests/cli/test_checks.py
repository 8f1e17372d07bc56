"""The checks of ``edm check-config``: they refuse what a start refuses, with the same messages."""

import dataclasses
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edm.cli import checks
from edm.cli.main import main
from edm.config import Config, load
from edm.daemon import Daemon
from edm.errors import ConfigError, EdmError
from support import golden
from support.daemon import to_toml
from support.pki import signing_jwk, write_jwk
from support.processes import free_port
from support.upload_site import Site


class World:
    """A configuration with everything in use, all of it good."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        Site(folder)
        shutil.rmtree(folder / "data")
        shutil.copy(golden.LISTS / "well-known.dawg", folder / "known.dawg")
        shutil.copy(golden.LISTS / "well-known.dawg", folder / "ignored.dawg")
        (folder / "clients").write_text("192.0.2.0/24\n")
        write_jwk(folder / "mqtt.jwk", signing_jwk("site-7"))
        self.settings: dict[str, object] = {
            "cryptopan_key": "a secret of more than enough length",
            "data_dir": folder / "data",
            "input_unix": folder / "dnstap.sock",
            "well_known_domains_file": folder / "known.dawg",
            "ignored_client_ips_file": folder / "clients",
            "ignored_question_names_file": folder / "ignored.dawg",
            "mqtt_server": "mqtt://127.0.0.1",
            "mqtt_signing_key_file": folder / "mqtt.jwk",
            "http_url": "https://127.0.0.1:1",
            "http_signing_key_file": folder / "signer.jwk",
            "metrics_address": "",
            "debug_address": "",
        }
        for service in ("mqtt", "http"):
            self.settings[f"{service}_client_key_file"] = folder / "client-key.pem"
            self.settings[f"{service}_client_cert_file"] = folder / "client.pem"

    def link(self, name: str, target: str) -> Path:
        """Make a link."""
        self.write("elsewhere", "")
        path = self.folder / name
        path.symlink_to(target)
        return path

    def config(self, **changes: object) -> Config:
        (self.folder / "edm.toml").write_text(to_toml({**self.settings, **changes}))
        (self.folder / "edm.toml").chmod(0o600)
        return load(self.folder / "edm.toml", {}, {})

    def tls(self, **changes: object) -> dict[str, object]:
        pair = {
            "input_tls_cert_file": self.folder / "server.pem",
            "input_tls_key_file": self.folder / "server-key.pem",
        }
        return {"input_unix": "", "input_tls": f"127.0.0.1:{free_port()}", **pair, **changes}

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def jwk(self, kid: str, **kinds: bool) -> Path:
        write_jwk(self.folder / "other.jwk", signing_jwk(kid, **kinds))
        return self.folder / "other.jwk"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_good_passes_and_leaves_nothing_behind(world: World) -> None:
    before = sorted(world.folder.rglob("*"))
    for changes in ({}, world.tls(), {"input_unix": "", "input_tcp": f"localhost:{free_port()}"}):
        config = world.config(**changes)
        assert checks.problems(config) == []
        assert checks.useless(config) == []
    assert set(world.folder.rglob("*")) - set(before) == {world.folder / "edm.toml"}


REFUSED: dict[str, Callable[[World], dict[str, object]]] = {
    "no list": lambda w: {"well_known_domains_file": w.folder / "no"},
    "empty list": lambda w: {"well_known_domains_file": w.write("empty", "")},
    "list that is a folder": lambda w: {"ignored_question_names_file": w.folder},
    "list that is none": lambda w: {"ignored_question_names_file": w.write("bad", "x" * 100)},
    "list that is a pipe": lambda w: (os.mkfifo(w.folder / "pipe"), {"ignored_client_ips_file": w.folder / "pipe"})[1],
    "clients that are none": lambda w: {"ignored_client_ips_file": w.write("bad", "192.0.2.0/24\n192.0.2.1\n")},
    "list too large": lambda w: {"ignored_client_ips_file": w.write("bad", "#\n" * 600), "list_file_bytes": 1024},
    "data below a file": lambda w: {"data_dir": w.write("file", "") / "data"},
    "data that is a file": lambda w: {"data_dir": w.write("file", "")},
    "data with a file in the way": lambda w: (
        (w.folder / "data").mkdir(), {"data_dir": w.write("data/parquet", "").parent}
    )[1],
    "unfinished files' folder that is a file": lambda w: (
        (w.folder / "data").mkdir(), {"data_dir": w.write("data/unfinished", "").parent}
    )[1],
    "seen names that are a file": lambda w: (
        (w.folder / "data").mkdir(), {"data_dir": w.write("data/seen-names", "").parent}
    )[1],
    "new names that are a file": lambda w: (
        (w.folder / "data").mkdir(),
        {"data_dir": w.write("data/new_qname", "").parent, "new_qname_file": True},
    )[1],
    "new names that are a file, without Core": lambda w: (
        (w.folder / "data").mkdir(),
        {"data_dir": w.write("data/new_qname", "").parent, "new_qname_file": True, "disable_mqtt": True},
    )[1],
    "debug file in no folder": lambda w: {"debug_dnstap_filename": w.folder / "no/debug"},
    "debug file that is a folder": lambda w: {"debug_dnstap_filename": w.folder},
    "debug file that is a link": lambda w: {"debug_dnstap_filename": w.link("debug", "elsewhere")},
    "debug file that is a link to nothing": lambda w: {"debug_dnstap_filename": w.link("debug", "nothing")},
    "data directory that is a link to itself": lambda w: {"data_dir": w.link("circle", "circle")},
    "debug file below a file": lambda w: {"debug_dnstap_filename": w.write("file", "") / "debug"},
    "socket in no folder": lambda w: {"input_unix": w.folder / "no/s"},
    "socket below a file": lambda w: {"input_unix": w.write("file", "") / "s"},
    "socket that is a file": lambda w: {"input_unix": w.write("file", "")},
    "socket that is a folder": lambda w: {"input_unix": w.folder},
    "socket with a long path": lambda w: {"input_unix": w.folder / ("x" * 110)},
    "socket with an endless name": lambda w: {"input_unix": w.folder / ("x" * 300)},
    "socket of nobody": lambda w: {"input_unix_owner": "no-such-user-here"},
    "socket of no group": lambda w: {"input_unix_owner": ":no-such-group-here"},
    "address of another host": lambda w: {"input_unix": "", "input_tcp": "192.0.2.1:0"},
    "address without a host": lambda w: {"input_unix": "", "input_tcp": "no-such-host.invalid:1"},
    "address in no zone": lambda w: {"input_unix": "", "input_tcp": "[fe80::1%no-such]:1"},
    "TLS address of another host": lambda w: w.tls(input_tls="192.0.2.1:0"),
    "no certificate": lambda w: w.tls(input_tls_cert_file=w.folder / "no"),
    "certificate that is none": lambda w: w.tls(input_tls_cert_file=w.write("bad", "x")),
    "key of another certificate": lambda w: w.tls(input_tls_key_file=w.folder / "client-key.pem"),
    "authority that is none": lambda w: w.tls(input_tls_client_ca_file=w.write("bad", "x")),
    "no signing key": lambda w: {"mqtt_signing_key_file": w.folder / "no"},
    "signing key that is PEM": lambda w: {"mqtt_signing_key_file": w.folder / "client-key.pem"},
    "key ID with a wildcard": lambda w: {"mqtt_signing_key_file": w.jwk("a+b")},
    "key ID without end": lambda w: {"mqtt_signing_key_file": w.jwk("k" * 60_001)},
    "no client key": lambda w: {"mqtt_client_key_file": w.folder / "no"},
    "client key of another": lambda w: {"mqtt_client_key_file": w.folder / "server-key.pem"},
    "no authorities": lambda w: {"mqtt_ca_file": w.folder / "no"},
    "no upload key": lambda w: {"http_signing_key_file": w.folder / "no"},
    "public upload key": lambda w: {"http_signing_key_file": w.folder / "signer.pub"},
    "upload key of another curve": lambda w: {
        "http_signing_key_file": (write_jwk(w.folder / "448", signing_jwk("k", "Ed448")), w.folder / "448")[1]
    },
    "upload key ID that is no ASCII": lambda w: {"http_signing_key_file": w.jwk("sité")},
    "no upload certificate": lambda w: {"http_client_cert_file": w.folder / "no"},
    "no upload authorities": lambda w: {"http_ca_file": w.write("bad", "x")},
    "upload URL with a password": lambda w: {"http_url": "https://me:secret@core.example"},
    "upload URL of no host": lambda w: {"http_url": f"https://{'x' * 64}.example"},
    "broker of no host": lambda w: {"mqtt_server": f"{'x' * 64}.example"},
    "broker at port 0": lambda w: {"mqtt_server": "mqtts://core.example:0"},
}  # fmt: skip


def start_error(config: Config) -> str:
    daemon = Daemon(config, lambda: config)
    with pytest.raises(EdmError) as refused:
        daemon.start()
    return str(refused.value)


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_start_refuses_is_refused_in_the_same_words(world: World, case: str) -> None:
    config = world.config(**REFUSED[case](world))
    found = checks.problems(config)
    line = start_error(config)
    assert any(line in problem for problem in found), (line, found)
    assert "secret@" not in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_what_this_user_may_not_do(world: World) -> None:
    closed = world.folder / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    for changes in (
        {"data_dir": closed / "data"},
        {"data_dir": closed},
        {"input_unix": closed / "s"},
        {"input_unix_owner": "root"},
        {"debug_dnstap_filename": closed / "debug"},
        {"input_unix": "", "input_tcp": "127.0.0.1:1"},
    ):
        config = world.config(**changes)
        found = checks.problems(config)
        assert found, changes
        line = start_error(config)
        assert any(line.split(" (")[0] in problem for problem in found), (line, found)


def test_a_daemon_that_runs_is_no_problem(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as daemon, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(world.folder / "dnstap.sock"))
        address = f"127.0.0.1:{daemon.getsockname()[1]}"
        assert checks.problems(world.config(metrics_address=address)) == []
        assert checks.useless(world.config(metrics_address=address)) == []
        assert checks.problems(world.config(input_unix="", input_tcp=address)) == []


USELESS: dict[str, tuple[Callable[[World], dict[str, object]], str]] = {
    **{
        f"key ID {kid!r}": (
            lambda w, kid=kid: {"mqtt_signing_key_file": w.jwk(kid)},
            "is of no use: Core takes",
        )
        for kid in ("a b", "a/b", "a$b", "sité", "a\n", "\x1b[31mk", "a:b")
    },
    "upload key ID": (lambda w: {"http_signing_key_file": w.jwk("a b")}, "http-signing-key-file: "),
    "public key": (lambda w: {"mqtt_signing_key_file": w.folder / "signer.pub"}, "holds only a public key"),
    "metrics": (
        lambda w: {
            "metrics_address": "192.0.2.1:0",
            "metrics_tls_cert_file": w.folder / "server.pem",
            "metrics_tls_key_file": w.folder / "server-key.pem",
            "metrics_token_file": w.write("token", "a-token-of-some-length"),
        },
        "metrics-address: 192.0.2.1:0: Cannot assign",
    ),
}


@pytest.mark.parametrize("case", USELESS)
def test_what_can_never_be_used_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    changes, text = USELESS[case]
    config = world.config(**changes(world))
    assert checks.problems(config) == []  # the daemon starts with it, as the Go daemon does
    for name in [name for name in os.environ if name.startswith("DNSTAPIR_EDM_")]:
        monkeypatch.delenv(name)
    assert main(["check-config", "--config-file", str(world.folder / "edm.toml")]) == 1
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if "warning: " not in line]
    assert text in line
    assert line.isprintable()
    assert "is valid" not in out


def test_a_check_that_raises_is_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_config: Config) -> list[str]:
        raise ConfigError("a")

    monkeypatch.setattr(checks, "CHECKS", [raises, lambda _: ["b", "a"], lambda _: ["b"]])
    assert checks.problems(dataclasses.replace(world.config())) == ["a", "b"]
