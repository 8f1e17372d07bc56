"""When the uploader tries which file, and how it handles the answers, with a scripted network."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from io import BufferedReader
from pathlib import Path

import pytest
import structlog

from edm import __version__
from edm.errors import EdmError, KeyFileError, OutputError
from edm.observe.metrics import Metrics
from edm.tapir.upload import upload as module
from edm.tapir.upload.aggregate import AggregateService, upload_problems, user_agent
from edm.tapir.upload.answer import Answer, likely_cause
from edm.tapir.upload.http_signature import CONTENT_TYPE
from edm.tapir.upload.post import Limits, PostError, Target
from edm.tapir.upload.upload import Timing, Uploader
from support.pki import Authority, signing_jwk, write_jwk
from support.upload_site import BEGIN, KID, Site, names


class World:
    """An uploader, the site it works for, a clock, and what the service answers."""

    def __init__(self, site: Site, **settings: object) -> None:
        self.site = site
        self.now = 1000.0
        self.tries: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[str], Answer | PostError] = lambda name: status(201)
        self.metrics = Metrics()
        config = site.settings("https://core.example:8443", **settings)
        self.uploader = Uploader(config, site.data, self.metrics, Timing(), lambda: self.now)
        self.uploader.reload(config)

    def look(self, after: float = 0.0, last: bool = False) -> list[str]:
        """Let time pass and the uploader look once; return the minutes of the files that it tried."""
        self.now += after
        before = len(self.tries)
        self.uploader.look(last)
        return self.tries[before:]

    def count(self, result: str) -> float | None:
        return self.metrics.value("edm_upload_attempts_total", result=result)


def status(code: int, retry_after: str | None = None) -> Answer:
    return Answer(code, "because", "/stored/1" if code == 201 else None, retry_after, "")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def make(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    worlds: list[World] = []

    class Script:
        def __init__(self, target: Target, context: ssl.SSLContext, limits: Limits, until: object) -> None:
            self.target = target

        def run(self, headers: Iterable[tuple[str, str]], file: BufferedReader, length: int) -> Answer:
            world = worlds[-1]
            world.headers.append(dict(headers))
            assert len(file.read()) == length
            minute = world.headers[-1]["Aggregate-Interval"][14:16]
            world.tries.append(minute)
            answer = world.answer(minute)
            if isinstance(answer, PostError):
                raise answer
            return answer

    monkeypatch.setattr(module, "Exchange", Script)

    def make(**settings: object) -> World:
        worlds.append(World(site, **settings))
        return worlds[-1]

    return make


def test_all_files_oldest_first(make: Callable[..., World], site: Site) -> None:
    world = make()
    contents = site.fill(3)
    with structlog.testing.capture_logs() as lines:
        assert world.look() == ["50", "51", "52"]
    assert names(site.data.outbox) == []
    assert [site.path(i, site.data.sent).read_bytes() for i in range(3)] == list(contents.values())
    assert world.count("created") == 3
    assert world.metrics.value("edm_upload_bytes_total") == sum(map(len, contents.values()))
    assert world.metrics.value("edm_upload_last_success_timestamp_seconds") == pytest.approx(
        time.time(), abs=60
    )
    assert world.metrics.value("edm_upload_seconds_count") == 3
    assert {line["location"] for line in lines if line["event"] == "histogram uploaded"} == {"/stored/1"}


def test_header_fields_and_their_order(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(1)
    world.look()
    (headers,) = world.headers
    assert list(headers) == [
        "User-Agent",
        "Content-Length",
        "Aggregate-Interval",
        "Content-Digest",
        "Content-Type",
        "Signature",
        "Signature-Input",
        "Accept-Encoding",
    ]
    assert headers["User-Agent"] == user_agent()
    assert user_agent().startswith(f"edm/{__version__} linux/")
    assert headers["Aggregate-Interval"] == "2023-11-29T13:50:00Z/PT1M"
    assert headers["Content-Type"] == CONTENT_TYPE
    assert headers["Accept-Encoding"] == "gzip"
    assert f'keyid="{KID}"' in headers["Signature-Input"]


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")]
)
def test_architecture_as_go_calls_it(machine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert user_agent().endswith(f"/{name}")


def test_one_bad_file_does_not_hold_up_the_others(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(3)
    world.answer = lambda minute: status(500 if minute == "50" else 201)
    with structlog.testing.capture_logs() as lines:
        assert world.look() == ["50"]
    assert world.metrics.value("edm_upload_outbox_files") == 3
    assert world.metrics.value("edm_upload_outbox_bytes") == 1000 + 1001 + 1002
    (line,) = (line for line in lines if line["log_level"] == "warning")
    assert (line["status"], line["reason"], line["wait_seconds"]) == (500, "because", 15.0)
    assert world.look(1) == ["51", "52"]
    assert world.look(13) == []
    assert world.look(1) == ["50"]
    assert world.look(29) == []
    assert world.look(1) == ["50"]
    assert world.metrics.value("edm_upload_outbox_files") == 1
    assert world.count("unexpected") == 3
    world.answer = lambda minute: status(201)
    assert world.look(60) == ["50"]
    assert world.metrics.value("edm_upload_outbox_files") == 0


def test_a_file_is_tried_at_least_every_five_minutes(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(1)
    world.answer = lambda minute: status(500)
    for wait in (0, 15, 30, 60, 120, 240, 300, 300, 300):
        if wait:
            assert world.look(wait - 0.5) == []
        assert world.look(0.5) == ["50"]


def test_tries_slow_down_while_nothing_succeeds(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(9)
    world.answer = lambda minute: PostError("timeout", "no answer in time")
    assert world.look() == ["50"]
    for wait in (1, 2, 4, 8, *[15] * 20):
        assert world.look(wait - 0.5) == []
        assert len(world.look(0.5)) == 1
    assert world.tries[:4] == ["50", "51", "52", "53"]
    # As the waits of the older ones grow, all have their turn.
    for _ in range(80):
        assert len(world.look(15)) <= 1
    assert set(world.tries) == {str(minute) for minute in range(50, 59)}
    assert world.count("timeout") == len(world.tries)
    world.answer = lambda minute: status(201)
    assert len(world.look(1000)) == 9


@pytest.mark.parametrize("answer", [status(503), status(429), PostError("unreachable", "Connection refused")])
def test_nothing_is_tried_while_core_is_away(
    make: Callable[..., World], site: Site, answer: Answer | PostError
) -> None:
    world = make()
    site.fill(2)
    world.answer = lambda minute: answer
    assert world.look() == ["50"]
    for wait in (15, 30, 60, 120, 240, 300, 300):
        assert world.look(wait - 0.5) == []
        assert len(world.look(0.5)) == 1
    # Each has its turn, whichever of them it is that Core cannot bear.
    assert world.tries == ["50", "51"] * 4
    world.answer = lambda minute: status(201)
    assert world.look(300) + world.look(1) == ["50", "51"]


@pytest.mark.parametrize(("asked", "waits"), [("120", 120), ("0", 1), ("7200000", 3600)])
def test_retry_after(make: Callable[..., World], site: Site, asked: str, waits: float) -> None:
    world = make()
    site.fill(2)
    world.answer = lambda minute: status(503, asked) if minute == "50" else status(201)
    assert world.look() == ["50"]
    assert world.count("busy") == 1
    assert world.look(waits - 0.5) == []
    assert world.look(0.5) == ["51"]
    world.answer = lambda minute: status(201)
    assert world.look(1) == ["50"]


@pytest.mark.parametrize("code", [400, 413, 415, 422])
def test_a_file_refused_for_good_is_set_aside(make: Callable[..., World], site: Site, code: int) -> None:
    world = make(http_retry_limit=3)
    contents = site.fill(2)
    world.answer = lambda minute: status(code if minute == "50" else 201)
    assert world.look() == ["50"]
    site.path(1).rename(site.folder / "later")
    assert world.look(15) == ["50"]
    (site.folder / "later").rename(site.path(1))
    assert world.metrics.value("edm_upload_refused_files_total") == 0
    with structlog.testing.capture_logs() as lines:
        assert world.look(30) == ["50"]
        assert world.look(4) == ["51"]
    refused = site.data.outbox.with_name("refused")
    assert names(refused) == [site.path(0).name]
    assert site.path(0, refused).read_bytes() == next(iter(contents.values()))
    assert names(site.data.sent) == [site.path(1).name]
    assert world.metrics.value("edm_upload_refused_files_total") == 1
    assert world.count("refused") == 3
    (line,) = (line for line in lines if line["log_level"] == "error")
    assert (line["filename"], line["status"], line["tries"]) == (str(site.path(0, refused)), code, 3)
    # Moved back by hand, it has as many tries as any other file.
    site.path(0, refused).rename(site.path(0))
    assert world.look(100) == ["50"]
    assert names(site.data.outbox) == [site.path(0).name]


NOT_THE_FILE = [
    *[status(code) for code in (401, 402, 403, 404, 405, 407, 410, 421, 495, 496, 497)],
    Answer(400, "The SSL certificate error", None, None, ""),
    Answer(400, "Bad Request", None, None, "No required SSL certificate was sent nginx"),
    Answer(400, "Bad Request", None, None, "unknown key id"),
]


@pytest.mark.parametrize("answer", NOT_THE_FILE, ids=lambda answer: f"{answer.status} {answer.reason}")
def test_a_refusal_of_us_sets_no_file_aside_and_probes_with_growing_waits(
    make: Callable[..., World], site: Site, answer: Answer
) -> None:
    world = make(http_retry_limit=1)
    site.fill(3)
    world.answer = lambda minute: answer
    with structlog.testing.capture_logs() as lines:
        assert world.look() == ["50"]
        for wait in (15, 30, 60, 120, 240, 300, 300, 300):
            assert world.look(wait - 0.5) == []
            assert len(world.look(0.5)) == 1
    assert len(names(site.data.outbox)) == 3
    assert names(site.data.refused) == []
    assert world.count("denied") == 9
    assert {line["event"] for line in lines} == {
        "Core does not accept histograms from here, all of them wait"
    }
    assert lines[0]["likely_cause"]
    # What the operator mended is tried at once.
    world.answer = lambda minute: status(201)
    world.uploader.reload(world.uploader._settings)
    assert world.look() == ["50", "51", "52"]


@pytest.mark.parametrize(
    ("offset", "code", "cause"),
    [
        (-10, 401, "the clock is about 10 seconds ahead of the server's, more than 4 are refused"),
        (-10, 403, "the clock is about 10 seconds ahead of the server's, more than 4 are refused"),
        (
            0,
            401,
            "the server does not know the key in http-signing-key-file, or its own key service is out of reach",
        ),
        (-2, 403, "the client certificate or the key is not allowed to upload"),
        (3600, 401, "the clock is about 3600 seconds behind the server's"),
        (0, 404, "http-url does not name the service that takes histograms"),
        (0, 495, "the client certificate or the signing key is not accepted"),
    ],
)
def test_the_likely_cause_of_a_refusal(offset: float, code: int, cause: str) -> None:
    now = 1_700_000_000.0
    answer = Answer(code, "", None, None, "", formatdate(now + offset, usegmt=True))
    assert likely_cause(answer, now) == cause


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 99999 99:99:99 GMT"])
def test_without_a_usable_date_nothing_is_said_of_the_clock(date: str | None) -> None:
    answer = Answer(401, "", None, None, "", date)
    assert answer.clock_ahead(0.0) is None
    assert "clock" not in likely_cause(answer)


def test_a_reload_tries_what_was_set_aside_once_and_after_the_others(
    make: Callable[..., World], site: Site
) -> None:
    world = make(http_retry_limit=2)
    site.fill(2)
    world.answer = lambda minute: status(413)
    for _ in range(4):
        world.look(1000)
    assert len(names(site.data.refused)) == 2
    assert names(site.data.outbox) == []
    site.fill(3)
    site.path(0).unlink()
    site.path(1).unlink()
    world.answer = lambda minute: status(413 if minute == "50" else 201)
    world.uploader.reload(world.uploader._settings)
    with structlog.testing.capture_logs() as lines:
        assert world.look() == ["52", "50"]
        assert world.look(1000) == ["51"]
    assert names(site.data.refused) == [site.path(0).name]
    assert names(site.data.outbox) == []
    assert "histograms set aside are tried again" in [line["event"] for line in lines]
    assert world.look(1000) == []


@pytest.mark.parametrize("code", [200, 202, 204, 302, 307, 408, 425, 429, 500, 502, 503, 504])
def test_other_answers_never_set_a_file_aside(make: Callable[..., World], site: Site, code: int) -> None:
    world = make(http_retry_limit=1)
    site.fill(1)
    world.answer = lambda minute: status(code)
    for _ in range(4):
        assert world.look(10_000) == ["50"]
    assert names(site.data.outbox) == [site.path(0).name]
    assert names(site.data.sent) == []


def test_an_uploaded_file_that_cannot_be_moved_is_not_sent_again(
    make: Callable[..., World], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    site.fill(1)

    def fail(_file: object) -> Path:
        raise OutputError("data-dir: sent: Permission denied")

    with monkeypatch.context() as context:
        context.setattr(world.uploader.outbox, "move_to_sent", fail)
        assert world.look() == ["50"]
        assert world.look(100) == []
    assert names(site.data.outbox) == [site.path(0).name]
    assert world.look(100) == []
    assert names(site.data.sent) == [site.path(0).name]
    assert world.count("created") == 1


def test_another_file_of_the_same_name_is_another_file(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(1)
    world.answer = lambda minute: status(500)
    assert world.look() == ["50"]
    site.path(0).rename(site.folder / "elsewhere")
    site.fill(1, size=7)
    os.utime(site.path(0), (1, 1))
    assert world.look(2) == ["50"]


@pytest.mark.parametrize("answer", [status(201), status(500), status(403), PostError("broken", "cut")])
def test_a_file_removed_under_our_feet(
    make: Callable[..., World], site: Site, answer: Answer | PostError
) -> None:
    world = make(http_retry_limit=1)
    site.fill(3)

    def remove(minute: str) -> Answer | PostError:
        if minute == "50":
            site.path(0).unlink()
            site.path(1).unlink()
            return answer
        return status(201)

    world.answer = remove
    tried = world.look() + world.look(20)
    assert tried == ["50", "52"]
    assert names(site.data.outbox) == []
    assert names(site.data.sent) == [site.path(2).name]


def test_a_file_that_cannot_be_read(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(2)
    original = module.open_content

    def fail(path: Path) -> tuple[BufferedReader, int, str]:
        if path == site.path(0):
            raise PostError("file", "cannot be read: Permission denied")
        return original(path)

    module.open_content = fail
    try:
        assert world.look() + world.look(1) == ["51"]
    finally:
        module.open_content = original
    assert world.count("file") == 1


def test_an_outbox_that_is_gone(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.data.outbox.rmdir()
    with structlog.testing.capture_logs() as lines:
        assert world.look() == []
    assert "the outbox cannot be read" in [line["event"] for line in lines]


def test_switched_off_and_on(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(1)
    off = site.settings("https://core.example", disable_histogram_sender=True)
    world.uploader.reload(off)
    assert world.look() == []
    assert world.metrics.value("edm_upload_outbox_files") == 1
    world.uploader.reload(site.settings("https://core.example"))
    assert world.look() == ["50"]


def test_a_reload_takes_the_new_certificate_and_tries_at_once(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(2)
    world.answer = lambda minute: PostError("unreachable", "TLS: certificate expired")
    assert world.look() == ["50"]
    assert world.look(1) == []
    serial = site.renew_client()
    other_url = site.settings("https://elsewhere.example")
    world.uploader.reload(other_url)
    service = world.uploader.service
    assert service is not None
    assert service.certificate.serial == serial
    assert service.target.host == "core.example"  # takes effect at a restart only
    world.answer = lambda minute: status(201)
    assert world.look() == ["50", "51"]


def test_what_was_renewed_on_disk_is_used_for_the_next_upload(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(1)
    serial = site.renew_client()
    write_jwk(site.folder / "signer.jwk", signing_jwk("site-8"))
    with structlog.testing.capture_logs() as lines:
        assert world.look() == ["50"]
    assert 'keyid="site-8"' in world.headers[0]["Signature-Input"]
    service = world.uploader.service
    assert service is not None
    assert service.certificate.serial == serial
    renewed = [line["part"] for line in lines if line["event"] == "renewed on disk, taken up"]
    assert renewed == ["http_signing_key", "http_client_certificate"]
    # Half of it keeps all as it was, and one line says so.
    site.write("signer.jwk", b"{")
    site.fill(2)
    with structlog.testing.capture_logs() as lines:
        world.look()
        world.look(60)
    assert 'keyid="site-8"' in world.headers[-1]["Signature-Input"]
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert line["event"] == "renewed on disk but not usable, keeping the old one"
    assert (line["part"], line["reason"].split(":")[0]) == ("http_signing_key", "http-signing-key-file")


def test_a_reload_takes_new_authorities_and_keys_part_by_part(make: Callable[..., World], site: Site) -> None:
    world = make()
    service = world.uploader.service
    assert service is not None
    other = Authority(site.folder / "other", "other")
    write_jwk(site.folder / "new.jwk", signing_jwk("site-9"))
    settings = site.settings(
        "https://core.example:8443",
        http_ca_file=str(other.ca),
        http_signing_key_file=str(site.folder / "new.jwk"),
        http_client_cert_file="/nowhere",
    )
    serial = service.certificate.serial
    with pytest.raises(KeyFileError, match="http-client-cert-file: /nowhere"):
        world.uploader.reload(settings)
    assert service.key.kid == "site-9"
    assert [c["subject"][0][0][1] for c in service.certificate.context.get_ca_certs()] == ["other"]  # type: ignore[index]
    assert service.certificate.serial == serial


def test_a_broken_certificate_keeps_the_old_one(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(1)
    assert world.uploader.service is not None
    serial = world.uploader.service.certificate.serial
    site.write("client.pem", b"nonsense")
    with pytest.raises(KeyFileError, match="http-client-cert-file"):
        world.uploader.reload(site.settings("https://core.example"))
    assert world.uploader.service.certificate.serial == serial
    assert world.look() == ["50"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"http_url": "https://user@h"}, "http-url: "),
        ({"http_signing_key_file": "/nowhere"}, "http-signing-key-file: /nowhere: No such file"),
        ({"http_client_cert_file": "/nowhere"}, "http-client-cert-file: /nowhere: No such file"),
        ({"http_client_key_file": "/nowhere"}, "http-client-key-file: /nowhere: No such file"),
        ({"http_ca_file": "/nowhere"}, "http-ca-file: /nowhere: No such file"),
    ],
)
def test_what_cannot_be_used_is_told_at_the_start(
    site: Site, settings: dict[str, object], complaint: str
) -> None:
    broken = site.settings("https://core.example", **settings)
    with pytest.raises(EdmError) as caught:
        Uploader(broken, site.data, Metrics()).start()
    assert complaint in str(caught.value)
    assert list(upload_problems(broken)) == [str(caught.value)]
    off = site.settings("https://core.example", **settings, disable_histogram_sender=True)
    assert list(upload_problems(off)) == []
    uploader = Uploader(off, site.data, Metrics())
    uploader.start()
    with pytest.raises(EdmError):
        uploader.reload(broken)
    uploader.stop(0)
    assert uploader.service is None


def test_a_public_key_cannot_sign(site: Site) -> None:
    with pytest.raises(KeyFileError, match="holds only a public key"):
        AggregateService(
            site.settings("https://core.example", http_signing_key_file=str(site.folder / "signer.pub"))
        )


def test_without_tls_there_is_a_warning(site: Site) -> None:
    uploader = Uploader(site.settings("http://core.example"), site.data, Metrics())
    with structlog.testing.capture_logs() as lines:
        uploader.start()
    uploader.stop(0)
    assert [line["log_level"] for line in lines] == ["warning"]


def test_sent_files_are_removed_after_a_day(make: Callable[..., World], site: Site) -> None:
    world = make(disable_histogram_sender=True)
    site.data.sent.mkdir()
    for i, age in enumerate((86400 + 60, 86400 - 60)):
        path = site.path(i, site.data.sent)
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    world.look()
    assert names(site.data.sent) == [site.path(1).name]
    assert world.metrics.value("edm_upload_sent_removed_total") == 1
    os.utime(site.path(1, site.data.sent), (0, 0))
    world.look(59)
    assert names(site.data.sent) == [site.path(1).name]
    world.look(1)
    assert names(site.data.sent) == []


def test_an_expiring_certificate_is_shown_and_warned_about(make: Callable[..., World], site: Site) -> None:
    site.renew_client(days=3)
    world = make()
    with structlog.testing.capture_logs() as lines:
        world.look()
        world.look(100)
    assert [line["event"] for line in lines] == ["client certificate expires soon"]
    assert world.metrics.value("edm_http_certificate_seconds_left") == pytest.approx(3 * 86400, abs=600)


def test_the_last_look(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(3)
    world.answer = lambda minute: PostError("unreachable", "gone")
    world.look()
    # One more try without a wait, for a file that has none of its own; then it is clear that Core is away.
    assert world.look(last=True) == ["51"]
    world.answer = lambda minute: status(201)
    assert world.look(last=True) == ["52"]


def test_the_last_look_respects_what_core_asked_for(make: Callable[..., World], site: Site) -> None:
    world = make()
    site.fill(2)
    world.answer = lambda minute: status(429, "30")
    assert world.look() == ["50"]
    assert world.look(last=True) == []


def test_begin_is_what_the_names_say(site: Site) -> None:
    assert site.path(0).name.startswith(f"dns_histogram-{BEGIN:%Y-%m-%dT%H-%M-%SZ}_")
