"""Reads. Every one starts from the caller's project, so that other projects do not exist for it."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TypedDict
from uuid import UUID

from django.db.models import Count, F, Max, Min
from django.db.models.lookups import Exact
from django.utils import timezone

from core import limits
from core.errors import NotFoundError
from core.pages.paging import AscendingKey
from core.principal import Principal, Scope
from memories.filters import Node, to_q
from memories.models import Memory, ReviewStatus, Revision
from memories.visibility import (
    ENTITY_TYPES,
    as_uuid,
    filter_reachable,
    filter_visible,
    limit_of,
    plain_ids,
    unexpired,
)


class EntityTotals(TypedDict):
    """A user, agent, app or run, with totals of its memories."""

    id: str
    type: str
    total_memories: int
    created_at: datetime
    updated_at: datetime


def get_memory(principal: Principal, memory_id: str | UUID) -> Memory:
    """The memory, of any status or expiry; NotFoundError if missing, deleted or in another
    project."""
    principal.require(Scope.READ)
    return find(principal, memory_id)


# Raw SQL for the commonest read, which the ORM takes three times as long to compose.
_FIND_SQL = "SELECT * FROM memories_memory WHERE id = %s AND project_id = %s AND deleted_at IS NULL"


def find(principal: Principal, memory_id: str | UUID) -> Memory:
    """As `get_memory`, for callers that checked another scope."""
    id_ = as_uuid(memory_id)
    if principal.entity_limit:
        row = filter_reachable(principal).filter(id=id_).first()
    else:
        ids = plain_ids(id_, principal.project.id)
        row = next(iter(Memory.objects.raw(_FIND_SQL, ids)), None)
    if row is None:
        raise NotFoundError(f"Memory with id {memory_id} not found")
    return row


def list_memories(
    principal: Principal, *, where: Node, limit: int, offset: int = 0, show_expired: bool = False
) -> list[Memory]:
    """`limit` visible memories that match, newest first, after the newest `offset`."""
    principal.require(Scope.READ)
    rows = filter_visible(principal, where, show_expired=show_expired)
    return list(rows.order_by("-created_at", "-id")[offset : offset + limit])


def page(
    principal: Principal,
    *,
    where: Node,
    limit: int,
    offset: int = 0,
    after: AscendingKey | None = None,
) -> tuple[list[Memory], bool]:
    """`limit` matching memories after the first `offset` or after the key `after`, expired ones
    included, and whether there are more. Oldest first, so that new memories shift nothing.

    A deletion shifts an offset, but never a key.
    """
    principal.require(Scope.READ)
    rows = filter_visible(principal, where, show_expired=True).order_by("created_at", "id")
    if after is not None:
        rows = rows.filter(after.newer("created_at"))
    memories = list(rows[offset : offset + limit + 1])
    return memories[:limit], len(memories) > limit


def find_duplicate(
    principal: Principal, fingerprint: str, *, user_id: str, collection: str
) -> UUID | None:
    """The oldest memory with this fingerprint that belongs to the user, or to nobody ("").

    Deleted and expired memories do not count. A rejected one counts if there is no other, so that
    saying it again does not bring a rejected memory back.
    """
    rows = filter_reachable(principal).filter(
        unexpired(timezone.now()),
        fingerprint=fingerprint,
        user_id=user_id,
        collection=collection,
    )
    rejected = Exact(F("review_status"), ReviewStatus.REJECTED)
    return rows.order_by(rejected, "created_at", "seq", "id").values_list("id", flat=True).first()


def find_rejected(
    principal: Principal, fingerprints: Collection[str], *, user_id: str, collection: str
) -> set[str]:
    """The fingerprints among these that belong to rejected memories of the user, or of nobody
    ("")."""
    rows = filter_reachable(principal).filter(
        unexpired(timezone.now()),
        review_status=ReviewStatus.REJECTED,
        fingerprint__in=fingerprints,
        user_id=user_id,
        collection=collection,
    )
    return set(rows.values_list("fingerprint", flat=True))


def list_all(principal: Principal, *, limit: int, offset: int = 0) -> list[Memory]:
    """`limit` memories of all entities, newest first, after the newest `offset`, expired ones
    included; scope `admin`."""
    principal.require(Scope.ADMIN, "Admin role required to list all memories.")
    rows = filter_visible(principal, show_expired=True)
    return list(rows.order_by("-created_at", "-id")[offset : offset + limit])


def history(principal: Principal, memory_id: str | UUID) -> list[Revision]:
    """Every revision, oldest first; none for an unknown id. The history outlives deletion."""
    principal.require(Scope.READ)
    try:
        id_ = as_uuid(memory_id)
    except NotFoundError:
        return []
    if principal.entity_limit:
        row = Memory.objects.filter(id=id_, project_id=principal.project.id)
        if not row.filter(to_q(limit_of(principal), principal.project.zone)).exists():
            return []
    rows = Revision.objects.filter(project_id=principal.project.id, memory_id=id_)
    return list(rows.order_by("at", "id"))


def list_entities(
    principal: Principal, types: Mapping[str, str] = ENTITY_TYPES
) -> list[EntityTotals]:
    """The entities of the given types (name -> field) with counts, sorted by type and id. At most
    limits.ENTITIES + 1, so that callers see when there are more."""
    principal.require(Scope.READ)
    entities: list[EntityTotals] = []
    for type_, field in sorted(types.items()):
        groups = (
            filter_reachable(principal)
            .exclude(**{field: ""})
            .values_list(field)
            .annotate(Count("id"), Min("created_at"), Max("updated_at"))
            .order_by(field)
        )
        entities += [
            EntityTotals(id=id_, type=type_, total_memories=n, created_at=first, updated_at=last)
            for id_, n, first, last in groups[: limits.ENTITIES + 1 - len(entities)]
        ]
    return entities


def ids_deleted_since(principal: Principal, since: datetime) -> list[UUID]:
    """Ids of the memories deleted since then that can still be restored; scope `review`."""
    principal.require(Scope.REVIEW)
    rows = Memory.objects.filter(project_id=principal.project.id, deleted_at__gte=since)
    rows = rows.filter(to_q(limit_of(principal), principal.project.zone)).exclude(text="")
    return list(rows.values_list("id", flat=True))


def ids_of_entities(principal: Principal, entities: Mapping[str, str]) -> list[UUID]:
    """Ids of all memories of the named entities, deleted ones included; scope `admin`."""
    principal.require(Scope.ADMIN)
    rows = Memory.objects.filter(project_id=principal.project.id, **entities)
    ids = rows.filter(to_q(limit_of(principal), principal.project.zone)).values_list(
        "id", flat=True
    )
    # Two queries, because each has its own index.
    return [*ids.filter(deleted_at__isnull=True), *ids.filter(deleted_at__isnull=False)]
