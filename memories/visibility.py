"""What exists for the caller. Every read and every write starts here."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import F, Func, Q, QuerySet, UUIDField
from django.db.models.lookups import Exact
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone

from core.errors import NotFoundError
from core.principal import Principal
from memories.filters import EVERYTHING, AllOf, Comparison, Node, to_q
from memories.filters.language import mentions
from memories.models import ENTITY_FIELDS, Memory, ReviewStatus

ENTITY_TYPES = {field.removesuffix("_id"): field for field in ENTITY_FIELDS}


def limit_of(principal: Principal) -> Node:
    """The caller's entity limit as a filter."""
    limit = principal.entity_limit or {}
    return AllOf(tuple(Comparison(f, "in", tuple(sorted(values))) for f, values in limit.items()))


class _AsIs(Func):
    """A column that SQLite does not look up in an index."""

    template = "%(expressions)s"
    output_field = UUIDField()

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="+%(expressions)s", **context)


def in_project(project_id: UUID) -> Q:
    """Matches memories of the project in queries by id. With a plain comparison, SQLite would read
    every memory of the project."""
    return Q(Exact(_AsIs(F("project_id")), project_id))


def filter_reachable(principal: Principal, *, by_id: bool = False) -> QuerySet[Memory]:
    """All live memories that exist for the caller; `by_id` if the caller adds a filter by ids."""
    project = principal.project.id
    rows = Memory.objects.filter(
        in_project(project) if by_id else Q(project_id=project), deleted_at=None
    )
    return (
        rows.filter(to_q(limit_of(principal), principal.project.zone))
        if principal.entity_limit
        else rows
    )


def filter_restorable(principal: Principal, *, by_id: bool = False) -> QuerySet[Memory]:
    """All deleted memories of the caller that are not erased; `by_id` as in `filter_reachable`."""
    project = principal.project.id
    rows = Memory.objects.filter(
        in_project(project) if by_id else Q(project_id=project), deleted_at__isnull=False
    ).exclude(text="")
    return (
        rows.filter(to_q(limit_of(principal), principal.project.zone))
        if principal.entity_limit
        else rows
    )


def unexpired(now: datetime) -> Q:
    """Matches memories that have not expired at `now`."""
    return (Q(expires_at=None) | Q(expires_at__gt=now)) & (
        Q(expiration_date=None) | Q(expiration_date__gte=now.date())
    )


def has_expired(memory: Memory, now: datetime) -> bool:
    """The opposite of `unexpired`, for one memory."""
    day = memory.expiration_date
    return (memory.expires_at is not None and memory.expires_at <= now) or (
        day is not None and day < now.date()
    )


def statuses_for_agents(principal: Principal, where: Node) -> tuple[str, ...]:
    """The review statuses that agents see; a filter that names the status sees all."""
    if mentions(where, "review_status"):
        return tuple(ReviewStatus.values)
    hidden = {ReviewStatus.REJECTED}
    if principal.project.hide_unreviewed:
        hidden.add(ReviewStatus.UNREVIEWED)
    return tuple(status for status in ReviewStatus.values if status not in hidden)


def filter_visible(
    principal: Principal, where: Node = EVERYTHING, *, show_expired: bool = False
) -> QuerySet[Memory]:
    """The reachable memories that a search or a list may show."""
    rows = filter_reachable(principal).filter(to_q(where, principal.project.zone))
    statuses = statuses_for_agents(principal, where)
    if len(statuses) < len(ReviewStatus.values):
        rows = rows.filter(review_status__in=statuses)
    return rows if show_expired else rows.filter(unexpired(timezone.now()))


def plain_ids(*ids: UUID) -> list[UUID | str]:
    """Ids as parameters of raw SQL: SQLite stores them as 32 hex digits."""
    native = connection.features.has_native_uuid_field
    return [id_ if native else id_.hex for id_ in ids]


def as_uuid(memory_id: str | UUID) -> UUID:
    """The id as a UUID; NotFoundError for other text, because such a memory cannot exist."""
    if isinstance(memory_id, UUID):
        return memory_id
    try:
        return UUID(memory_id)
    except ValueError:
        raise NotFoundError(f"Memory with id {memory_id} not found") from None
