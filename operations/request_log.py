"""Keeps the request log, off the path of the requests: no request may wait for its own log."""

import itertools
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import Error as AnyDatabaseError
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from core import notes
from core.database import portions
from core.http.finished import FinishedRequest
from core.principal import NOBODY
from operations import strangers
from operations.models import RefusedRequests, RequestLog

logger = logging.getLogger(__name__)

PRUNE_ROWS: Final = 5_000
# Paths that are nobody's doing, as in mem0's own server, and what monitors and browsers ask for.
_SKIPPED: Final = frozenset(
    {
        *("/api/health", "/docs", "/redoc", "/openapi.json"),
        *("/health", "/healthz", "/metrics", "/v1/ping/"),
    }
)
# Of MCP as well: what clients say by the way is no call.
_SKIPPED_BELOW: Final = ("/requests", "/static/", "/mcp notifications/", "/mcp ping")


def _store(rows: dict[int, RequestLog]) -> int:
    """Writes the rows; how many had to be left out, such as those of a project that is gone."""
    try:
        RequestLog.objects.bulk_create(rows.values())
        return 0
    except (OperationalError, InterfaceError):
        raise
    except AnyDatabaseError:
        pass
    # One of them does not fit: the others must not go with it. What is written leaves the batch, so
    # that an outage in between brings no row twice.
    left_out = 0
    for number, row in list(rows.items()):
        row.pk = None
        try:
            row.save(force_insert=True)
        except (OperationalError, InterfaceError):
            raise
        except AnyDatabaseError:
            left_out += 1
        del rows[number]
    return left_out


rows: Final = notes.Notes("request log", _store)
_numbers: Final = itertools.count()


def put(row: RequestLog) -> None:
    """Takes the row or counts it as dropped; never waits."""
    rows.put(next(_numbers), row)


def is_logged(method: str, path: str) -> bool:
    """Whether the log keeps this request."""
    return method != "OPTIONS" and path not in _SKIPPED and not path.startswith(_SKIPPED_BELOW)


def log_request(handled: FinishedRequest) -> None:
    """settings.REQUEST_LOG: takes note of a finished request, if this process keeps the log."""
    if not notes.are_kept() or not is_logged(handled.method, handled.path):
        return
    who = handled.principal
    if who is None:
        if handled.status >= 400:
            strangers.count(handled)
        if not strangers.rows.take()[0]:
            return
    columns = RequestLog.columns(who.actor if who else NOBODY)
    columns["client"] = _clean(columns["client"], 200)
    columns["request_id"] = handled.request_id  # also where nobody is known to have made it
    put(
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
    old = RequestLog.objects.filter(created_at__lt=oldest).order_by("created_at")
    total = portions.delete(old, PRUNE_ROWS, beat)
    RefusedRequests.objects.filter(hour__lt=oldest).delete()
    if total:
        logger.info("request log pruned", extra={"rows": total})
    return total
