"""When each client called last, for pages that wait for a first call.

The request log knows it, and no index of it does: so this process reads the log of a project once,
and from then on what is new.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db.models import Max
from django.utils import timezone

from core.principal import Principal
from operations.models import RequestLog

# People in the dashboard, who are no clients.
_PEOPLE: Final = ("session", "auth_disabled")
# A row is written so long after its request, at most, unless the database is away.
_LATE: Final = timedelta(seconds=60)
# Callers choose the names of clients: so many of a project are known, the newest.
MOST_CLIENTS: Final = 1_000
_MOST_PROJECTS: Final = 100


@dataclass(slots=True)
class _Project:
    """What is known of one project: the newest call by account and client, read until `until`."""

    until: datetime | None = None
    calls: dict[tuple[UUID | None, str], datetime] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)


_known: Final[OrderedDict[UUID, _Project]] = OrderedDict()
_guard: Final = Lock()


def last_calls(principal: Principal) -> dict[str, datetime]:
    """The newest call that succeeded, by the name of its client: the caller's own calls alone.

    An instance owner gets those without an account as well: static keys, and AUTH_DISABLED.
    """
    project = _project(principal.project.id)
    with project.lock:
        _read_on(principal.project.id, project)
        calls = list(project.calls.items())
    kept_since = timezone.now() - timedelta(days=settings.REQUEST_LOG_RETENTION_DAYS)
    mine: dict[str, datetime] = {}
    for (account_id, client), at in calls:
        is_own = account_id == principal.account_id or (account_id is None and principal.is_owner)
        if is_own and at >= max(mine.get(client, kept_since), kept_since):
            mine[client] = at
    return mine


def forget() -> None:
    """Forgets what is known of all projects; the next question reads the whole log."""
    with _guard:
        _known.clear()


def _project(project_id: UUID) -> _Project:
    with _guard:
        project = _known.setdefault(project_id, _Project())
        _known.move_to_end(project_id)
        while len(_known) > _MOST_PROJECTS:
            _known.popitem(last=False)
        return project


def _read_on(project_id: UUID, project: _Project) -> None:
    now = timezone.now()
    rows = RequestLog.objects.filter(project_id=project_id, status_code__lt=400)
    if project.until is not None:
        rows = rows.filter(created_at__gte=project.until - _LATE)
    newest = rows.exclude(auth_type__in=_PEOPLE).order_by().values_list("account_id", "client")
    for account_id, client, at in newest.annotate(at=Max("created_at")).order_by("-at")[
        :MOST_CLIENTS
    ]:
        key = account_id, client
        project.calls[key] = max(at, project.calls.get(key, at))
    if len(project.calls) > 2 * MOST_CLIENTS:
        newest_first = sorted(project.calls.items(), key=lambda call: call[1], reverse=True)
        project.calls = dict(newest_first[:MOST_CLIENTS])
    project.until = now
