"""The request log and its figures, by time, by key and by client.

Visits of pages are not in it. Activity shows what people do in the dashboard.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db.models import Count, F, Func, IntegerField, Max, Q, QuerySet, TextField
from django.db.models.fields import FloatField
from django.utils import timezone

from core import zones
from core.kept import Kept
from core.pages.paging import DescendingKey
from core.principal import Principal, Scope
from operations.models import RequestLog

SHOWN_AUTH_TYPES: Final = ("api_key", "admin_api_key", "oauth", "bearer", "disabled")
PERIODS: Final = {
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
SHOWN_CLIENTS: Final = 20
SHOWN_KEYS: Final = 50
# So many are counted within a fraction of a second.
FEW: Final = 50_000


@dataclass(frozen=True, slots=True)
class TrafficFilter:
    """Which requests are meant; what is empty leaves nothing out.

    `since` and `until` are days in `time_zone` and go before `period`. `key` is a key's prefix, or
    one of SHOWN_AUTH_TYPES; `status` the first digit of the status; `slow_ms` the least duration.
    """

    period: str = "24h"
    since: date | None = None
    until: date | None = None
    key: str = ""
    client: str = ""
    method: str = ""
    path: str = ""
    status: str = ""
    slow_ms: int = 0
    time_zone: str = zones.UNIVERSAL

    def span(self) -> tuple[datetime, datetime]:
        """From when until when, as of now; never further back than the log is kept."""
        now = timezone.now()
        zone = zones.zone_named(self.time_zone)
        until = min(zones.end_of(self.until, zone), now) if self.until else now
        since = zones.start_of(self.since, zone) if self.since else until - PERIODS[self.period]
        return max(since, now - timedelta(days=settings.REQUEST_LOG_RETENTION_DAYS)), until

    def unit(self) -> str:
        """What one bar of a chart stands for: "hour", "day" or "month"."""
        since, until = self.span()
        if until - since <= timedelta(hours=72):
            return "hour"
        return "day" if until - since <= timedelta(days=100) else "month"


def filter_requests(principal: Principal, chosen: TrafficFilter) -> QuerySet[RequestLog]:
    """The requests of the caller's project that are meant; scope `admin`.

    Paths name entities: a key with an entity limit sees its own requests alone.
    """
    principal.require(Scope.ADMIN, "Admin role required.")
    since, until = chosen.span()
    rows = RequestLog.objects.filter(
        project_id=principal.project.id,
        created_at__gte=since,
        created_at__lt=until,
        auth_type__in=SHOWN_AUTH_TYPES,
    )
    if principal.entity_limit is not None:
        rows = rows.filter(key_prefix=principal.key_prefix)
    return rows.filter(_condition(chosen))


def _condition(chosen: TrafficFilter) -> Q:
    condition = Q()
    if chosen.key in SHOWN_AUTH_TYPES:
        condition &= Q(auth_type=chosen.key)
    elif chosen.key:
        condition &= Q(key_prefix=chosen.key)
    if chosen.client:
        condition &= Q(client=chosen.client)
    if chosen.method:
        condition &= Q(method=chosen.method)
    if chosen.path:
        condition &= Q(path__contains=chosen.path)
    if chosen.status:
        least = int(chosen.status) * 100
        condition &= Q(status_code__gte=least, status_code__lt=least + 100)
    if chosen.slow_ms:
        condition &= Q(latency_ms__gte=chosen.slow_ms)
    return condition


def list_newest(
    principal: Principal, chosen: TrafficFilter, *, limit: int, behind: DescendingKey | None = None
) -> list[RequestLog]:
    """At most `limit` of them, newest first, that stand behind a place in the list."""
    rows = filter_requests(principal, chosen).select_related("account")
    if behind is not None:
        rows = rows.filter(behind.older("created_at"))
    return list(rows.order_by("-created_at", "-id")[:limit])


# --- Figures -------------------------------------------------------------------------------------
class _Slot(Func):
    """The hour, day or month in UTC that a time falls into, as the beginning of its ISO form."""

    function = "SUBSTR"
    output_field = TextField()
    LENGTH: Final = {"hour": 13, "day": 10, "month": 7}

    def __init__(self, expression: str, unit: str) -> None:
        super().__init__(F(expression), length=self.LENGTH[unit])

    # Django's own functions are written in Python for SQLite: a million calls take seconds.
    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "SUBSTR(%(expressions)s, 1, %(length)s)"
        return self.as_sql(compiler, connection, template=template, **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "SUBSTR(CAST(%(expressions)s AT TIME ZONE 'UTC' AS TEXT), 1, %(length)s)"
        return self.as_sql(compiler, connection, template=template, **context)


class _TwoDigits(Func):
    """A duration in ms to two digits: few enough different ones to be counted."""

    output_field = FloatField()
    template = (
        "CASE WHEN %(expressions)s < 10 THEN ROUND(%(expressions)s * 10) / 10.0"
        " WHEN %(expressions)s < 100 THEN ROUND(%(expressions)s)"
        " WHEN %(expressions)s < 1000 THEN ROUND(%(expressions)s / 10.0) * 10"
        " WHEN %(expressions)s < 10000 THEN ROUND(%(expressions)s / 100.0) * 100"
        " ELSE ROUND(%(expressions)s / 1000.0) * 1000 END"
    )


def _class_of_status() -> Any:
    return Func(F("status_code"), template="(%(expressions)s / 100)", output_field=IntegerField())


@dataclass(slots=True)
class Figures:
    """How some requests went: by first digit of the status, and by duration in ms."""

    statuses: Counter[int] = field(default_factory=Counter)
    durations: Counter[float] = field(default_factory=Counter)
    last: datetime | None = None

    def take(self, status: int, ms: float, count: int, last: datetime | None = None) -> None:
        self.statuses[status] += count
        self.durations[ms] += count
        if last is not None and (self.last is None or last > self.last):
            self.last = last

    @property
    def total(self) -> int:
        return self.statuses.total()

    @property
    def errors(self) -> int:
        """Those that were refused or failed: 4xx and 5xx."""
        return sum(count for status, count in self.statuses.items() if status >= 4)

    @property
    def share(self) -> float:
        """The errors in percent of all."""
        return 100 * self.errors / self.total if self.total else 0.0

    @property
    def p50(self) -> float | None:
        return self._at(0.5)

    @property
    def p95(self) -> float | None:
        return self._at(0.95)

    def _at(self, part: float) -> float | None:
        """The duration that `part` of the requests did not exceed; None for no requests."""
        left = part * self.durations.total()
        for ms in sorted(self.durations):
            left -= self.durations[ms]
            if left <= 0:
                return ms
        return None


@dataclass(frozen=True, slots=True)
class Caller:
    """A key, or another way of calling; `account_id` is whose it was."""

    auth_type: str
    key_prefix: str
    account_id: UUID | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """The figures of the requests that are meant. `slots` has every hour, day or month of the time
    asked for, oldest first; `callers` and `clients` the busiest, and how many more there are."""

    unit: str
    slots: dict[datetime, Figures]
    callers: list[tuple[Caller, Figures]]
    clients: list[tuple[str, Figures]]
    more_callers: int
    all: Figures


# Figures of a million requests take seconds.
_kept: Final[Kept[Traffic]] = Kept(long=0.25, size=50)


def is_quick(principal: Principal, chosen: TrafficFilter) -> bool:
    """Whether `measure_traffic` answers at once: it is kept, or there is little to count."""
    principal.require(Scope.ADMIN, "Admin role required.")
    if _kept.has(_place(principal, chosen)):
        return True
    since, last = chosen.span()
    rows = RequestLog.objects.filter(
        project_id=principal.project.id, created_at__gte=since, created_at__lt=last
    )
    return rows[: FEW + 1].count() <= FEW


def _place(principal: Principal, chosen: TrafficFilter) -> tuple[UUID, str, TrafficFilter]:
    limited = principal.key_prefix if principal.entity_limit is not None else ""
    return principal.project.id, limited, chosen


def measure_traffic(principal: Principal, chosen: TrafficFilter) -> Traffic:
    """Counts, errors and durations by time, key and client; scope `admin`. Three statements.

    Durations are to two digits. Where it took long, the next ones get the same for ten times as
    long.
    """
    found = filter_requests(principal, chosen)
    return _kept.get(_place(principal, chosen), lambda: _count(found, chosen))


def _count(found: QuerySet[RequestLog], chosen: TrafficFilter) -> Traffic:
    unit = chosen.unit()
    slots = {start: Figures() for start in _starts(chosen, unit)}
    in_all = Figures()
    groups = found.annotate(slot=_Slot("created_at", unit))
    for slot, status, ms, count in _grouped(groups, "slot"):
        in_all.take(status, ms, count)
        slots.setdefault(_start_of(slot), Figures()).take(status, ms, count)
    callers: dict[Caller, Figures] = {}
    names = ("auth_type", "key_prefix", "account_id")
    for *who, status, ms, count, last in _grouped(found, *names, last=Max("created_at")):
        callers.setdefault(Caller(*who), Figures()).take(status, ms, count, last)
    busiest = sorted(callers.items(), key=lambda item: (-item[1].total, item[0].key_prefix))
    return Traffic(
        unit=unit,
        slots=dict(sorted(slots.items())),
        callers=busiest[:SHOWN_KEYS],
        clients=_clients(found),
        more_callers=max(0, len(busiest) - SHOWN_KEYS),
        all=in_all,
    )


def _grouped(found: QuerySet[RequestLog], *names: str, **more: Any) -> Iterable[Any]:
    groups = found.annotate(class_=_class_of_status(), ms=_TwoDigits(F("latency_ms")))
    counted = groups.order_by().values_list(*names, "class_", "ms")
    return counted.annotate(n=Count("id"), **more)


def _clients(found: QuerySet[RequestLog]) -> list[tuple[str, Figures]]:
    """The busiest clients. Callers choose these names, so there may be any number."""
    counted = found.order_by().values("client").annotate(n=Count("id")).order_by("-n", "client")
    busiest = counted.values("client")[:SHOWN_CLIENTS]
    clients: dict[str, Figures] = {}
    shown = found.filter(client__in=busiest)
    for client, status, ms, count, last in _grouped(shown, "client", last=Max("created_at")):
        clients.setdefault(client, Figures()).take(status, ms, count, last)
    return sorted(clients.items(), key=lambda item: (-item[1].total, item[0]))


def _start_of(slot: str) -> datetime:
    """The beginning of an hour, day or month, from the beginning of its ISO form."""
    whole = f"{slot}-01" if len(slot) == _Slot.LENGTH["month"] else slot
    return datetime.fromisoformat(whole).replace(tzinfo=UTC)


def _starts(chosen: TrafficFilter, unit: str) -> Iterable[datetime]:
    """The beginnings of all hours, days or months that the time asked for touches."""
    since, until = chosen.span()
    at = since.replace(minute=0, second=0, microsecond=0)
    if unit != "hour":
        at = at.replace(hour=0)
    if unit == "month":
        at = at.replace(day=1)
    while at < until:
        yield at
        if unit == "month":
            at = (at + timedelta(days=32)).replace(day=1)
        else:
            at += timedelta(hours=1) if unit == "hour" else timedelta(days=1)
