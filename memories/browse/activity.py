"""Who did what, and when: the history of a project's memories, and beside it, in one list by time,
what was done to keys, people, providers and settings (accounts.audit).

It is read here, and written with each change alone: nothing changes an entry, but that erasing a
memory takes the words out of its history.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from typing import Any, Final
from uuid import UUID

import orjson
from django.db.models import Exists, OuterRef, Q, QuerySet

from accounts import audit
from accounts.audit import AuditAction
from accounts.models import Account, AuditEntry
from core.pages import tabular
from core.pages.paging import DescendingKey
from core.principal import Principal, Scope
from core.rest.json import dumps
from core.zones import end_of, start_of
from memories import visibility
from memories.browse import word_diff
from memories.filters import to_q
from memories.models import Memory, Revision

MEMORIES: Final = "memories"
EVENTS: Final = ("ADD", "UPDATE", "DELETE", "RESTORE", "ERASE")
FORMATS: Final = ("csv", "jsonl")
BATCH: Final = 500
# The end of a place in the list that one of the audit's entries has.
_DEED: Final = "-a"
COLUMNS: Final = (
    *("at", "event", "memory_id", "account_id", "account", "via", "old_text", "new_text"),
    *("changes", "actor_id", "role", "memory_created_at"),
    *("target_kind", "target_id", "target", "count"),
)
# Which key or client it was, and from where, is for administrators.
DETAILS: Final = ("key_id", "key_prefix", "client", "request_id", "address")


@dataclass(frozen=True, slots=True)
class ActivityFilter:
    """Which entries are meant; what is empty leaves nothing out. `kind` is MEMORIES or one of
    audit.KINDS, `event` one of EVENTS or an audit.AuditAction. Days are in UTC."""

    kind: str = ""
    event: str = ""
    account: UUID | None = None
    key: str = ""
    client: str = ""
    memory: UUID | None = None
    request: str = ""
    since: date | None = None
    until: date | None = None


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """An entry as the page tells it. `state` is where its memory is: "live", "deleted", "gone";
    `is_silent` says that its words are no longer kept."""

    row: Revision
    state: str
    is_silent: bool
    difference: Sequence[word_diff.Part]
    changes: Sequence[tuple[str, str, str]]

    @property
    def text(self) -> str:
        """What it is about, as it was then."""
        return self.row.new_text or self.row.old_text or ""


@dataclass(frozen=True, slots=True)
class AuditDeed:
    """An entry about something else than a memory."""

    row: AuditEntry


Row = Revision | AuditEntry
Source = QuerySet[Revision] | QuerySet[AuditEntry]


@dataclass(frozen=True, slots=True)
class ActivityKey:
    """Where an entry stands in the list of both tables: of what was done at the same moment, the
    audit's entries come first."""

    place: DescendingKey
    is_deed: bool = False

    def __str__(self) -> str:
        """As addresses have it."""
        return f"{self.place}{_DEED if self.is_deed else ''}"

    @classmethod
    def of(cls, text: str) -> "ActivityKey | None":
        """What `str` made of it; None for "". InvalidInputError for anything else."""
        place = DescendingKey.of(text.removesuffix(_DEED))
        return None if place is None else cls(place, text.endswith(_DEED))

    def older(self, model: type[Row]) -> Q:
        """Holds for the rows of this table that stand behind it."""
        if (model is AuditEntry) == self.is_deed:
            return self.place.older("at")
        return Q(at__lte=self.place.at) if self.is_deed else Q(at__lt=self.place.at)


def filter_revisions(principal: Principal, filters: ActivityFilter) -> QuerySet[Revision]:
    """The entries of memories in the caller's project that are meant; scope `read`, and `admin` for
    asking by key, client or request."""
    principal.require(Scope.READ)
    if filters.key or filters.client or filters.request:
        principal.require(Scope.ADMIN, "Only administrators see keys, clients and requests.")
    rows = Revision.objects.filter(project_id=principal.project.id)
    if principal.entity_limit:
        limit = to_q(visibility.limit_of(principal), principal.project.zone)
        rows = rows.filter(
            memory_id__in=Memory.objects.filter(limit, project_id=principal.project.id).values("id")
        )
    conditions = {
        "event": filters.event,
        "memory_id": filters.memory,
        **_alike(filters, principal.project.zone),
    }
    return rows.filter(**{name: value for name, value in conditions.items() if value})


def _alike(filters: ActivityFilter, zone: tzinfo) -> dict[str, Any]:
    """What is asked of both tables in the same way."""
    return {
        "account_id": filters.account,
        "key_prefix": filters.key,
        "client": filters.client,
        "request_id": filters.request,
        "at__gte": filters.since and start_of(filters.since, zone),
        "at__lt": filters.until and end_of(filters.until, zone),
    }


def _sources(principal: Principal, filters: ActivityFilter) -> list[Source]:
    """The lists that the entries come from, each in an order of its own index."""
    of_memories = filter_revisions(principal, filters)
    sources: list[Source] = []
    if filters.kind in {"", MEMORIES} and filters.event in {"", *EVENTS}:
        sources.append(of_memories)
    if filters.memory or filters.kind == MEMORIES or filters.event in EVENTS:
        return sources
    conditions = {
        name: value for name, value in _alike(filters, principal.project.zone).items() if value
    }
    for rows in audit.visible_entries(principal):
        entries = rows.filter(**conditions)
        if filters.kind or filters.event:
            # Each action for itself: no index has several together in the order of time.
            sources += [entries.filter(action=action) for action in _actions(filters)]
        else:
            sources.append(entries)
    return sources


def _actions(filters: ActivityFilter) -> list[AuditAction]:
    of_kind = audit.KINDS[filters.kind] if filters.kind else tuple(AuditAction)
    return [action for action in of_kind if filters.event in {"", action}]


def list_entries(
    principal: Principal, filters: ActivityFilter, *, limit: int, behind: ActivityKey | None = None
) -> list[MemoryEntry | AuditDeed]:
    """At most `limit` of them, newest first, that stand behind a place in the list. As many
    statements for a thousand as for one."""
    rows = _batch(_sources(principal, filters), behind, limit)
    states = _states(principal, [row.memory_id for row in rows if isinstance(row, Revision)])
    return [
        _entry(row, states.get(row.memory_id, "gone"))
        if isinstance(row, Revision)
        else AuditDeed(row)
        for row in rows
    ]


def _batch(sources: Sequence[Source], behind: ActivityKey | None, limit: int) -> list[Row]:
    """The newest of all sources: of each as many as all may be, for it may have them alone."""
    found: list[Row] = []
    for rows in sources:
        later = rows if behind is None else rows.filter(behind.older(rows.model))
        found += later.select_related("account").order_by("-at", "-id")[:limit]
    return sorted(found, key=_order, reverse=True)[:limit]


def _order(row: Row) -> tuple[datetime, bool, int]:
    return row.at, isinstance(row, AuditEntry), row.pk


def position_of(entry: MemoryEntry | AuditDeed) -> ActivityKey:
    """Where it stands in the list."""
    return _spot(entry.row)


def _spot(row: Row) -> ActivityKey:
    return ActivityKey(DescendingKey(row.at, row.pk), isinstance(row, AuditEntry))


def _states(principal: Principal, ids: Sequence[UUID]) -> dict[UUID, str]:
    rows = Memory.objects.filter(project_id=principal.project.id, id__in=set(ids))
    return {
        id_: "live" if deleted_at is None else "deleted"
        for id_, deleted_at in rows.values_list("id", "deleted_at")
    }


def _entry(row: Revision, state: str) -> MemoryEntry:
    old, new = row.old_text, row.new_text
    changed = old is not None and new is not None and old != new
    return MemoryEntry(
        row=row,
        state=state,
        is_silent=old is None and new is None,
        difference=word_diff.difference(old or "", new or "") if changed else (),
        changes=list(_changes(row.changes)),
    )


def _changes(stored: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Field, before, after; of metadata what differs alone."""
    for name, change in sorted(stored.items()):
        if name == "text" or not isinstance(change, list) or len(change) != 2:
            continue
        before, after = change
        if isinstance(before, dict) and isinstance(after, dict):
            for key in sorted({*before, *after}):
                if before.get(key) != after.get(key):
                    yield f"{name}: {key}", _plain(before.get(key)), _plain(after.get(key))
        else:
            yield name.replace("_", " "), _plain(before), _plain(after)


def _plain(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return dumps(value, orjson.OPT_SORT_KEYS).decode()


def list_people(principal: Principal) -> list[tuple[UUID, str]]:
    """Who has done anything that the caller may see: id and name, by name; scope `read`."""
    principal.require(Scope.READ)
    of_memories = Revision.objects.filter(project_id=principal.project.id)
    acted = Q()
    for rows in (of_memories, *audit.visible_entries(principal)):
        acted |= Q(Exists(rows.filter(account_id=OuterRef("id"))))
    accounts = Account.objects.filter(acted).order_by("name", "id")
    return list(accounts.values_list("id", "name"))


# --- Export --------------------------------------------------------------------------------------
def export(principal: Principal, filters: ActivityFilter, format_: str) -> Iterator[bytes]:
    """All entries that are meant, newest first, in pieces of UTF-8; each that was there at the
    beginning comes once. Cells of a CSV are inert in a spreadsheet.

    Refuses before the first piece, as `filter_revisions` does; InvalidInputError for an unknown
    format.
    """
    tabular.check_format(format_, FORMATS)
    names = (*COLUMNS, *DETAILS) if Scope.ADMIN in principal.scopes else COLUMNS
    batches = (
        [[_value(row, name) for name in names] for row in batch]
        for batch in _batches(_sources(principal, filters))
    )
    return tabular.pieces(format_, names, batches)


def _batches(sources: Sequence[Source]) -> Iterator[list[Row]]:
    behind: ActivityKey | None = None
    while batch := _batch(sources, behind, BATCH):
        yield batch
        behind = _spot(batch[-1])


def _value(row: Row, name: str) -> Any:
    if isinstance(row, AuditEntry):
        return _value_of_deed(row, name)
    if name == "account":
        return row.account.name if row.account else ""
    of_memory = {"target_kind": "memory", "target_id": row.memory_id, "target": "", "count": 1}
    return of_memory[name] if name in of_memory else getattr(row, name, "")


def _value_of_deed(row: AuditEntry, name: str) -> Any:
    values = {
        "event": row.action,
        "account": row.account.name if row.account else row.actor_label,
        "changes": row.details,
        "target": row.target_label,
    }
    return values[name] if name in values else getattr(row, name, None)
