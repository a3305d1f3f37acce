"""Keeps the request log, off the path of the requests.

A request only puts its record into a queue. One thread per process writes what has gathered there,
once a second or when a batch is full. While the database is away the queue fills up; what does not
fit any more is counted and dropped, for no request may wait for its own log.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import Error as AnyDatabaseError
from django.db import InterfaceError, OperationalError, close_old_connections, connection
from django.utils import timezone

from mem0dash import disk
from mem0dash.middleware import Handled
from mem0dash.principal import NOBODY
from operations import strangers
from operations.models import RefusedRequests, RequestLog

logger = logging.getLogger(__name__)

BATCH_ROWS: Final = 200
BATCH_SECONDS: Final = 1.0
QUEUE_ROWS: Final = 10_000
# How long a failed batch waits for the next attempt, at most.
RETRY_SECONDS: Final = 30.0
PRUNE_ROWS: Final = 5_000
# Numbers of what has no row of its own are written this often.
COUNT_SECONDS: Final = 10.0
# Paths that are not logged, as in mem0's own server: those of monitors and browsers.
_SKIPPED: Final = frozenset(
    {
        *("/api/health", "/docs", "/redoc", "/openapi.json"),
        *("/health", "/healthz", "/metrics", "/v1/ping/"),
    }
)
_SKIPPED_BELOW: Final = ("/requests", "/static/")


class RequestLogWriter:
    """The queue and the thread of one process."""

    def __init__(self, *, size: int = QUEUE_ROWS) -> None:
        self._queue: queue.Queue[RequestLog] = queue.Queue(size)
        self._kept: list[RequestLog] = []  # a batch that could not be written yet
        self._dropped = 0
        self._dropped_lock = threading.Lock()
        self._stop = threading.Event()
        self._full = threading.Event()
        self._thread: threading.Thread | None = None
        self.strangers = strangers.Strangers()
        self._counted_at = time.monotonic()

    def put(self, row: RequestLog) -> None:
        """Queues the row, or counts it as dropped; never waits."""
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._drop(1)
        if self._queue.qsize() >= BATCH_ROWS:
            self._full.set()

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="mem0dash-request-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after it has written what is left."""
        self._stop.set()
        self._full.set()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def write(self) -> bool:
        """Writes all that is waiting; False when the database is away or the disk full, and the
        rows are kept."""
        self._tell_dropped()
        if disk.is_low():
            return False  # The remaining room is for deletes.
        while rows := self._kept or self._next_batch():
            self._kept = rows
            try:
                self._drop(_store(rows))
            except (OperationalError, InterfaceError):
                logger.warning("request log not written; trying again", extra={"rows": len(rows)})
                return False
            self._kept = []
        return True

    def write_counts(self) -> None:
        """Writes the numbers of what has no rows; errors of the database rise."""
        self._counted_at = time.monotonic()
        strangers.write(self.strangers)

    def _run(self) -> None:
        wait = BATCH_SECONDS
        while not self._stop.is_set():
            if wait > BATCH_SECONDS:
                self._stop.wait(wait)  # the database is away: a full batch changes nothing
            else:
                self._full.wait(wait)
            self._full.clear()
            wait = BATCH_SECONDS if self._guarded_write() else min(wait * 2, RETRY_SECONDS)
        self._guarded_write()
        self._drop(len(self._kept) + self._queue.qsize())
        self._tell_dropped()
        connection.close()

    def _guarded_write(self) -> bool:
        """One failing round must not end the thread: whatever it was, the next may go well."""
        try:
            close_old_connections()
            if not self.write():
                return False
            if self._stop.is_set() or time.monotonic() - self._counted_at >= COUNT_SECONDS:
                self.write_counts()
            return True
        except (OperationalError, InterfaceError):
            return False
        except Exception:  # see the docstring
            logger.exception("request log not written")
            self._drop(len(self._kept))
            self._kept = []
            return False

    def _next_batch(self) -> list[RequestLog]:
        rows: list[RequestLog] = []
        while len(rows) < BATCH_ROWS:
            try:
                rows.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return rows

    def _drop(self, count: int) -> None:
        if count:
            with self._dropped_lock:
                self._dropped += count

    def _tell_dropped(self) -> None:
        with self._dropped_lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            logger.warning("rows of the request log were dropped", extra={"rows": dropped})


def _store(rows: list[RequestLog]) -> int:
    """Writes the rows; how many had to be left out, such as those of a project that is gone."""
    try:
        RequestLog.objects.bulk_create(rows)
        return 0
    except (OperationalError, InterfaceError):
        raise
    except AnyDatabaseError:
        pass
    # One of them does not fit: the others must not go with it. What is written leaves the list, so
    # that an outage in between brings no row twice.
    left_out = 0
    while rows:
        rows[0].pk = None
        try:
            rows[0].save(force_insert=True)
        except (OperationalError, InterfaceError):
            raise
        except AnyDatabaseError:
            left_out += 1
        del rows[0]
    return left_out


def is_logged(method: str, path: str) -> bool:
    """Whether the log keeps this request."""
    return method != "OPTIONS" and path not in _SKIPPED and not path.startswith(_SKIPPED_BELOW)


def record(handled: Handled) -> None:
    """settings.REQUEST_LOG: takes note of a finished request, if this process keeps the log."""
    if _writer is None or not is_logged(handled.method, handled.path):
        return
    who = handled.principal
    if who is None:
        if handled.status >= 400:
            _writer.strangers.count(handled)
        if not strangers.rows.take()[0]:
            return
    columns = RequestLog.columns(who.actor if who else NOBODY)
    columns["client"] = _clean(columns["client"], 200)
    columns["request_id"] = handled.request_id  # Also without a known caller.
    _writer.put(
        RequestLog(
            **columns,
            project_id=who.project.id if who else None,
            method=_clean(handled.method, 10),
            path=_clean(handled.path, 500),
            status_code=handled.status,
            latency_ms=handled.ms,
            auth_type=handled.auth_type,
            created_at=handled.at,
        )
    )


def _clean(text: str, length: int) -> str:
    """Text that every database can keep."""
    return text.replace("\0", "\ufffd")[:length]


def prune(*, beat: Callable[[int], object] = lambda total: None) -> int:
    """Deletes rows older than REQUEST_LOG_RETENTION_DAYS; returns how many.

    It works in portions, so that no writer waits long, and calls `beat` after each.
    """
    oldest = timezone.now() - timedelta(days=settings.REQUEST_LOG_RETENTION_DAYS)
    total = 0
    old = RequestLog.objects.filter(created_at__lt=oldest).order_by("created_at")
    while portion := list(old.values_list("id", flat=True)[:PRUNE_ROWS]):
        total += RequestLog.objects.filter(id__in=portion).delete()[0]
        beat(total)
    RefusedRequests.objects.filter(hour__lt=oldest).delete()
    if total:
        logger.info("request log pruned", extra={"rows": total})
    return total


_writer: RequestLogWriter | None = None


def start() -> None:
    """Starts keeping the log in this process."""
    global _writer
    _writer = RequestLogWriter()
    _writer.start()


def stop() -> None:
    """Writes the remaining rows and stops the log in this process."""
    global _writer
    writer, _writer = _writer, None
    if writer is not None:
        writer.stop()
