from __future__ import annotations

import shutil
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from edm.config import Settings
from edm.errors import KeyFileError
from edm.observe.metrics import Metrics
from edm.tapir.keys.certificates import ClientCertificate
from support.pki import Authority, Pair, key_pem

DAY = 86400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def settings_of(pair: Pair, authority: Authority | None = None) -> Settings:
    return Settings(
        mqtt_client_cert_file=str(pair.cert),
        mqtt_client_key_file=str(pair.key),
        mqtt_ca_file=str(authority.ca) if authority else "",
    )


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = client.wrap_bio(a, b, server_hostname="localhost"), server.wrap_bio(b, a, server_side=True)
    waiting = list(sides)
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return sides


def server_context(authority: Authority, server: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.load_cert_chain(server.cert, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def shown_serial(certificate: ClientCertificate, authority: Authority, server: Pair) -> int:
    """Return the serial number of the certificate that a server sees."""
    client_side, server_side = shake_hands(certificate.context, server_context(authority, server))
    assert client_side.version() == "TLSv1.3"
    peer = server_side.getpeercert()
    assert peer is not None
    return int(str(peer["serialNumber"]), 16)


def test_the_certificate_is_shown_and_a_reload_changes_it(authority: Authority) -> None:
    first, second, server = authority.client(), authority.client(), authority.server()
    certificate = ClientCertificate("mqtt", settings_of(first, authority))
    assert shown_serial(certificate, authority, server) == first.serial == certificate.serial
    assert certificate.not_after == first.not_after.timestamp()
    before = certificate.context
    certificate.reload(settings_of(second, authority))
    assert shown_serial(certificate, authority, server) == second.serial == certificate.serial
    assert certificate.context is not before


def test_the_same_files_with_new_content(authority: Authority, tmp_path: Path) -> None:
    first, second, server = authority.client(), authority.client(), authority.server()
    used = Pair(tmp_path / "cert", tmp_path / "key", 0, first.not_after)
    for pair in (first, second):
        shutil.copy(pair.cert, used.cert)
        shutil.copy(pair.key, used.key)
        if pair is first:
            certificate = ClientCertificate("mqtt", settings_of(used, authority))
        else:
            certificate.reload(settings_of(used, authority))
        assert shown_serial(certificate, authority, server) == pair.serial


def test_only_tls_1_3(authority: Authority) -> None:
    context = ClientCertificate("mqtt", settings_of(authority.client(), authority)).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_only_the_given_authority_is_trusted(authority: Authority, tmp_path: Path) -> None:
    certificate = ClientCertificate("mqtt", settings_of(authority.client(), authority))
    other = Authority(tmp_path, "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        shown_serial(certificate, authority, other.server())


def test_system_authorities_without_a_file(authority: Authority) -> None:
    context = ClientCertificate("mqtt", settings_of(authority.client())).context
    reference = ssl.create_default_context()
    assert context.cert_store_stats() == reference.cert_store_stats()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda pair: pair.key.unlink(), "mqtt-client-key-file: {key}: No such file or directory"),
        (lambda pair: pair.cert.unlink(), "mqtt-client-cert-file: {cert}: No such file or directory"),
        (lambda pair: pair.key.write_text("x"), "mqtt-client-key-file: {key}: holds no usable private key"),
        (lambda pair: pair.key.write_text(""), "mqtt-client-key-file: {key}: holds no usable private key"),
        (
            lambda pair: pair.cert.write_text("x"),
            "mqtt-client-cert-file: {cert}: holds no usable certificate",
        ),
        (
            lambda pair: pair.cert.write_bytes(b""),
            "mqtt-client-cert-file: {cert}: holds no usable certificate",
        ),
    ],
)
def test_a_broken_pair_keeps_the_old_one(
    authority: Authority, tmp_path: Path, spoil: object, reason: str
) -> None:
    good, server = authority.client(), authority.server()
    certificate = ClientCertificate("mqtt", settings_of(good, authority))
    bad = Authority(tmp_path).client("bad")
    spoil(bad)  # type: ignore[operator]
    with pytest.raises(KeyFileError) as caught:
        certificate.reload(settings_of(bad, authority))
    assert str(caught.value).startswith(reason.format(key=bad.key, cert=bad.cert))
    assert shown_serial(certificate, authority, server) == good.serial
    with pytest.raises(KeyFileError):
        ClientCertificate("mqtt", settings_of(bad))


def test_key_of_another_certificate(authority: Authority) -> None:
    one, other = authority.client(), authority.client()
    with pytest.raises(KeyFileError, match=f"{other.key}: does not belong to the certificate in {one.cert}"):
        ClientCertificate("mqtt", settings_of(Pair(one.cert, other.key, 0, one.not_after)))


def test_an_encrypted_key_is_refused_without_asking(authority: Authority) -> None:
    pair = authority.client()
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(key_pem(key, b"secret"))  # type: ignore[arg-type]
    with pytest.raises(KeyFileError, match="the key is encrypted"):
        ClientCertificate("mqtt", settings_of(pair))


@pytest.mark.parametrize(
    "text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_broken_authorities(authority: Authority, tmp_path: Path, text: str) -> None:
    pair = authority.client()
    file = tmp_path / "ca.pem"
    file.write_text(text)
    settings = Settings(
        mqtt_client_cert_file=str(pair.cert), mqtt_client_key_file=str(pair.key), mqtt_ca_file=str(file)
    )
    with pytest.raises(KeyFileError, match=r"mqtt-ca-file: .*: holds no usable certificate"):
        ClientCertificate("mqtt", settings)


def test_application_protocols(authority: Authority) -> None:
    pair = authority.client()
    settings = Settings(
        http_client_cert_file=str(pair.cert),
        http_client_key_file=str(pair.key),
        http_ca_file=str(authority.ca),
    )
    server = server_context(authority, authority.server())
    server.set_alpn_protocols(["h2", "http/1.1"])
    offering = ClientCertificate("http", settings, alpn=("http/1.1",))
    assert shake_hands(offering.context, server)[1].selected_alpn_protocol() == "http/1.1"
    assert (
        shake_hands(ClientCertificate("http", settings).context, server)[1].selected_alpn_protocol() is None
    )


def test_seconds_left_as_a_metric(authority: Authority) -> None:
    certificate = ClientCertificate("mqtt", settings_of(authority.client(lifetime=timedelta(days=-1))))
    metrics = Metrics()
    certificate.add_metrics(metrics)
    left = metrics.value("edm_mqtt_certificate_seconds_left")
    assert left is not None
    assert -DAY - 60 < left <= -DAY


@pytest.mark.parametrize(
    ("lifetime", "text"),
    [
        (timedelta(days=13), "client certificate expires soon"),
        (timedelta(days=-2), "client certificate has expired"),
    ],
)
def test_a_warning_once_a_day(authority: Authority, lifetime: timedelta, text: str) -> None:
    pair = authority.client(lifetime=lifetime)
    certificate = ClientCertificate("mqtt", settings_of(pair))
    now = pair.not_after.timestamp() - lifetime.total_seconds()
    with capture_logs() as logs:
        assert certificate.warn_if_expiring(now)
        assert not certificate.warn_if_expiring(now + DAY - 1)
        assert certificate.warn_if_expiring(now + DAY)
    assert [line["event"] for line in logs] == [text, text]
    assert logs[0]["log_level"] == "warning"
    assert logs[0]["days_left"] == lifetime.days


def test_no_warning_while_there_is_time(authority: Authority) -> None:
    pair = authority.client(lifetime=timedelta(days=30))
    certificate = ClientCertificate("mqtt", settings_of(pair))
    begin = pair.not_after.timestamp() - 30 * DAY
    with capture_logs() as logs:
        assert not certificate.warn_if_expiring(begin)
        assert not certificate.warn_if_expiring(begin + 15 * DAY)
        assert certificate.warn_if_expiring(begin + 17 * DAY)
        certificate.reload(settings_of(authority.client()))
        assert not certificate.warn_if_expiring(begin + 17 * DAY)
    assert len(logs) == 1
