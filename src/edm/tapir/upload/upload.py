"""The upload of histogram files to Core: a thread that empties the outbox, whatever Core answers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from edm.config import Settings
from edm.errors import OutputError
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.output.paths import DataDirectory
from edm.tapir.upload.aggregate import AggregateService
from edm.tapir.upload.answer import Answer, likely_cause
from edm.tapir.upload.metrics import UploadMetrics
from edm.tapir.upload.outbox import HistogramFile, Outbox
from edm.tapir.upload.post import Exchange, PostError, open_content
from edm.tapir.upload.retries import Backoff, FileRecord, Timing, retry_after

CREATED = 201

_FAILED = "histogram upload failed, it will be tried again"
_DENIED = "Core does not accept histograms from here, all of them wait"


class Uploader:
    """Uploads the files in the outbox, oldest first, and removes what was sent a day ago.

    A sink (:class:`edm.output.sink.Sink`): a file is put by its final name in the outbox, and acknowledged by its move.

    Only status 201 means that Core has a file, which is then moved to the folder of sent files. A process that
    is killed between the answer and the move uploads that file once more after its restart; in any other case
    a stored file is not sent again. A file that fails is tried again after a growing wait, and the others go on
    meanwhile; how often they are tried slows down while nothing succeeds. A file refused for its own sake
    ``http-retry-limit`` times is set aside; a reload gives it one more try. For a refusal because of the key, the
    certificate, the clock or the URL, no file is set aside: all stay queued, and one at a time is tried.

    Parameters
    ----------
    settings : Settings
        Of these, only ``disable-histogram-sender`` and the files with keys, certificate and authorities can change
        by a reload.
    data : DataDirectory
    metrics : Metrics
    timing : Timing, optional
    clock : callable
        Monotonic seconds.
    """

    part = "http_client_certificate"
    section = "uploads"

    def __init__(
        self,
        settings: Settings,
        data: DataDirectory,
        metrics: Metrics,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._timing = timing or Timing()
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger()
        self._limited = RateLimited(self._log, on_suppressed=metrics.count_suppressed)
        self.outbox = Outbox(data)
        self.service: AggregateService | None = None
        self._enabled = False
        self._records: dict[str, FileRecord] = {}
        self._pace = Backoff(self._timing.pace, self._timing.pace_longest)
        self._outage = Backoff(self._timing.outage, self._timing.outage_longest)
        self._asked_until = -math.inf
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._forgive = threading.Event()
        self._until = math.inf
        self._exchange: Exchange | None = None
        self._clean_at = -math.inf
        self._counts = UploadMetrics(metrics)
        self._thread = threading.Thread(target=self._run, name="edm-upload", daemon=True)

    # Life

    def start(self) -> None:
        """Read keys and certificates, unless the sender is switched off, and start to work.

        Raises
        ------
        EdmError
            A file cannot be used, or the URL.
        """
        if not self._settings.disable_histogram_sender:
            self._set_up(self._settings)
        self._thread.start()

    def reload(self, settings: Settings) -> bool:
        """Switch the sender on or off; read key, client certificate and authorities again for the next upload.

        A sender that was off at the start is set up now. Files that wait for a retry are tried at once, and
        files that were set aside are tried again. Returns whether it is on.

        Raises
        ------
        EdmError
            A file cannot be used; what it replaces stays in use.
        """
        if settings.disable_histogram_sender:
            self._enabled = False
            return False
        try:
            if self.service is None:
                self._set_up(settings)
            else:
                self._enabled = True
                self.service.reload(settings)
        finally:
            self._forgive.set()
            self._wake.set()
        return True

    def stop(self, grace: float) -> None:
        """Try once more to upload what is in the outbox, for at most ``grace`` seconds, and end."""
        self._until = self._clock() + max(grace, 0.0)
        self._stopping.set()
        self._wake.set()
        if not self._thread.is_alive():
            return
        self._thread.join(max(grace, 0.0))
        if (exchange := self._exchange) is not None:
            exchange.abort()
        # Aborted, it ends at once, unless a name server keeps it waiting; the process need not.
        self._thread.join(1.0)
        self._limited.flush()

    def status(self) -> dict[str, Any]:
        """Return the queue, what was sent, and the last error; see :class:`edm.output.sink.Sink`."""
        return self._counts.status(self._enabled, getattr(self.service, "target", None), self._limited.last)

    def certificates(self) -> list[tuple[str, float]]:
        """Return when the client certificate ends; see :class:`edm.output.sink.Sink`."""
        return [("HTTP client", self.service.certificate.not_after)] if self.service is not None else []

    @property
    def running(self) -> bool:
        """Tell whether the thread is still at work."""
        return self._thread.is_alive()

    def _set_up(self, settings: Settings) -> None:
        service = AggregateService(settings)
        if not service.target.tls:
            self._log.warning("http-url does without TLS: histograms can be read and changed on their way")
        service.certificate.add_metrics(self._metrics)
        self.service, self._enabled = service, True

    # The thread

    def _run(self) -> None:
        while True:
            self._wake.clear()
            last = self._stopping.is_set()
            try:
                self.look(last)
            except Exception:  # the thread must outlive whatever happens to one round
                self._log.exception("uploading histograms failed")
            if last:
                return
            if not self._stopping.is_set():
                self._wake.wait(self._until_next())

    def _until_next(self) -> float:
        """Return how long the thread may wait: until the next scan or something else is due."""
        now = self._clock()
        due = [self._held_until(), *(record.until for record in self._records.values())]
        return min([self._timing.scan, *(moment - now for moment in due if moment > now)])

    def _held_until(self) -> float:
        return max(self._pace.until, self._outage.until, self._asked_until)

    def look(self, last: bool = False) -> None:
        """Look into the outbox once and upload what it is time for; ``last`` is the one at the shutdown."""
        if self._forgive.is_set():
            self._forgive.clear()
            self._asked_until = -math.inf
            self._pace.forgive()
            self._outage.forgive()
            for record in self._records.values():
                record.until = -math.inf
            self._bring_back()
        if last:
            # The last chance is worth a try without a wait, but not against what Core asked for.
            self._pace.forgive()
            self._outage.forgive()
        now = self._clock()
        if now >= self._clean_at:
            self._clean_at = now + self._timing.clean
            self._clean()
        try:
            files = self.outbox.scan()
        except OSError as error:
            self._limited.error("the outbox cannot be read", reason=error.strerror)
            return
        self._counts.waiting(len(files), sum(file.size for file in files))
        self._records = {
            f.path.name: r
            for f in files
            if (r := self._records.get(f.path.name)) and r.identity == f.identity
        }
        for file in sorted(files, key=self._is_brought_back):
            if not self._may_go_on(last):
                break
            if self._handle(file):
                self._counts.gone(file.size)

    def _is_brought_back(self, file: HistogramFile) -> bool:
        record = self._records.get(file.path.name)
        return record is not None and record.brought_back

    def _bring_back(self) -> None:
        """Put the files that were set aside into the outbox again: the reason may have gone."""
        try:
            files = self.outbox.bring_back()
        except (OSError, OutputError) as error:
            self._limited.error("histograms set aside cannot be tried again", reason=str(error))
            return
        for file in files:
            record = FileRecord.of(file, self._timing)
            record.refusals = self._settings.http_retry_limit - 1
            record.brought_back = True
            self._records[file.path.name] = record
        if files:
            self._log.info("histograms set aside are tried again", files=len(files))

    def _may_go_on(self, last: bool) -> bool:
        now = self._clock()
        if not self._enabled or self.service is None or now >= self._until:
            return False
        if last:
            return now >= max(self._asked_until, self._outage.until)
        return not self._stopping.is_set() and now >= self._held_until()

    def _clean(self) -> None:
        if self._enabled and self.service is not None:
            self.service.refresh()
            self.service.certificate.warn_if_expiring()
        try:
            self._counts.removed.inc(self.outbox.clean(time.time()))
        except OSError as error:
            self._limited.error("sent histograms cannot be removed", reason=error.strerror)

    # One file

    def _handle(self, file: HistogramFile) -> bool:
        """Upload a file if it is its turn; return whether it has left the outbox."""
        name = file.path.name
        record = self._records.get(name) or FileRecord.of(file, self._timing)
        if self._clock() < record.until:
            return False
        if not record.stored:
            service = self.service
            assert service is not None
            service.refresh()
            began = self._clock()
            try:
                answer = self._upload(service, file)
            except FileNotFoundError:
                return True
            except PostError as error:
                if error.failure != "stopped":
                    self._no_answer(file, record, error)
                return False
            if answer.status != CREATED:
                return self._refusal(file, record, answer)
            self._success(file, record, answer, self._clock() - began)
        return self._move(file, record)

    def _upload(self, service: AggregateService, file: HistogramFile) -> Answer:
        content, length, digest = open_content(file.path)
        with content:
            headers = service.headers(file, length, digest, int(time.time()))
            exchange = Exchange(
                service.target, service.certificate.context, self._timing.limits, lambda: self._until
            )
            self._exchange = exchange
            try:
                with self._counts.seconds.time():
                    return exchange.run(headers, content, length)
            finally:
                self._exchange = None

    def _success(self, file: HistogramFile, record: FileRecord, answer: Answer, seconds: float) -> None:
        record.stored = True
        self._pace.reset()
        self._outage.reset()
        self._counts.succeeded(file.size)
        self._log.info(
            "histogram uploaded",
            filename=file.path.name,
            location=answer.location,
            bytes=file.size,
            seconds=round(seconds, 3),
        )

    def _move(self, file: HistogramFile, record: FileRecord) -> bool:
        try:
            self.outbox.move_to_sent(file)
        except FileNotFoundError:
            pass
        except (OSError, OutputError) as error:
            self._records[file.path.name] = record
            record.until = self._clock() + record.backoff.failed(self._clock())
            self._limited.error(
                "histogram is uploaded but cannot be moved", filename=file.path.name, reason=str(error)
            )
            return False
        self._records.pop(file.path.name, None)
        return True

    def _no_answer(self, file: HistogramFile, record: FileRecord, error: PostError) -> None:
        self._counts.attempts.labels(error.failure).inc()
        if error.failure == "unreachable":
            self._outage.failed(self._clock())
            self._again(file, record, away=True, reason=str(error))
        else:
            self._again(file, record, reason=str(error))

    def _refusal(self, file: HistogramFile, record: FileRecord, answer: Answer) -> bool:
        """Deal with an answer that is not 201; return whether the file has left the outbox."""
        now = self._clock()
        told: dict[str, Any] = {"status": answer.status, "reason": answer.text or answer.reason}
        blame = answer.blame
        if blame == "busy":
            self._counts.attempts.labels("busy").inc()
            asked = retry_after(answer.retry_after, time.time())
            if asked is not None:
                self._asked_until = now + min(asked, self._timing.retry_after_longest)
                told["asked_seconds"] = round(asked)
            else:
                self._outage.failed(now)
            self._again(file, record, away=True, **told)
            return False
        if blame in ("access", "address"):
            self._counts.attempts.labels("denied").inc()
            self._outage.failed(now)
            cause = likely_cause(answer)
            self._again(file, record, _DENIED, likely_cause=cause, **told)
            return False
        self._outage.reset()
        if blame == "file":
            self._counts.attempts.labels("refused").inc()
            record.refusals += 1
            if record.refusals >= self._settings.http_retry_limit:
                return self._set_aside(file, record, **told)
        else:
            self._counts.attempts.labels("unexpected").inc()
            if answer.location:
                told["location"] = answer.location
        self._again(file, record, **told)
        return False

    def _again(
        self, file: HistogramFile, record: FileRecord, event: str = _FAILED, away: bool = False, **told: Any
    ) -> None:
        """Let a file wait: on its own account, or because Core is ``away`` for all."""
        now = self._clock()
        self._records[file.path.name] = record
        self._pace.failed(now)
        if not away:
            record.until = now + record.backoff.failed(now)
        # The next file has its turn first: perhaps it is this one that Core cannot bear.
        record.until = max(record.until, self._held_until() + self._timing.pace)
        wait = record.until - now
        self._limited.warning(event, filename=file.path.name, wait_seconds=round(wait, 1), **told)

    def _set_aside(self, file: HistogramFile, record: FileRecord, **told: Any) -> bool:
        try:
            target = self.outbox.set_aside(file)
        except FileNotFoundError:
            return True
        except (OSError, OutputError) as error:
            self._again(file, record, problem=f"cannot be set aside: {error}", **told)
            return False
        self._pace.failed(self._clock())
        self._records.pop(file.path.name, None)
        self._counts.set_aside()
        self._limited.error(
            "histogram set aside because Core refuses it; a reload tries it again",
            filename=str(target),
            tries=record.refusals,
            **told,
        )
        return True


__all__ = ["Timing", "Uploader"]
