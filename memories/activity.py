"""Who did what to which memory, and when: the history of all memories of a project as one list.

It is read here, and written with each change alone (records.revision): nothing changes an entry,
but that erasing a memory takes the words out of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

import orjson
from django.db.models import Exists, OuterRef, QuerySet

from accounts.models import Account
from mem0dash import spreadsheets
from mem0dash.errors import InvalidInputError
from mem0dash.keyset import Place
from mem0dash.principal import Principal, Scope
from mem0dash.rest.json import dumps
from mem0dash.zones import end_of, start_of
from memories import queries, word_diff
from memories.filters import to_q
from memories.models import Memory, Revision

EVENTS: Final = ("ADD", "UPDATE", "DELETE", "RESTORE", "ERASE")
# Format -> media type.
FORMATS: Final = {"csv": spreadsheets.MEDIA_TYPE, "jsonl": "application/x-ndjson"}
BATCH: Final = 500
COLUMNS: Final = (
    *("at", "event", "memory_id", "account_id", "account", "via", "old_text", "new_text"),
    *("changes", "actor_id", "role", "memory_created_at"),
)
# Which key or client it was is for administrators.
DETAILS: Final = ("key_id", "key_prefix", "client", "request_id")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which entries are meant; what is empty leaves nothing out. Days are in UTC."""

    event: str = ""
    account: UUID | None = None
    key: str = ""
    client: str = ""
    memory: UUID | None = None
    request: str = ""
    since: date | None = None
    until: date | None = None


@dataclass(frozen=True, slots=True)
class Entry:
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


def revisions(principal: Principal, chosen: Chosen) -> QuerySet[Revision]:
    """The entries of the caller's project that are meant; scope `read`, and `admin` for asking by
    key, client or request."""
    principal.require(Scope.READ)
    if chosen.key or chosen.client or chosen.request:
        principal.require(Scope.ADMIN, "Only administrators see keys, clients and requests.")
    rows = Revision.objects.filter(project_id=principal.project.id)
    if principal.entity_limit:
        limit = to_q(queries.limit_of(principal), principal.project.zone)
        rows = rows.filter(
            memory_id__in=Memory.objects.filter(limit, project_id=principal.project.id).values("id")
        )
    zone = principal.project.zone
    wanted = {
        "event": chosen.event,
        "account_id": chosen.account,
        "key_prefix": chosen.key,
        "client": chosen.client,
        "memory_id": chosen.memory,
        "request_id": chosen.request,
        "at__gte": chosen.since and start_of(chosen.since, zone),
        "at__lt": chosen.until and end_of(chosen.until, zone),
    }
    return rows.filter(**{name: value for name, value in wanted.items() if value})


def entries(
    principal: Principal, chosen: Chosen, *, limit: int, behind: Place | None = None
) -> list[Entry]:
    """At most `limit` of them, newest first, that stand behind a place in the list. Two
    statements."""
    found = _batch(revisions(principal, chosen), behind, limit)
    states = _states(principal, [row.memory_id for row in found])
    return [_entry(row, states.get(row.memory_id, "gone")) for row in found]


def _batch(rows: QuerySet[Revision], behind: Place | None, limit: int) -> list[Revision]:
    if behind is not None:
        rows = rows.filter(behind.older("at"))
    return list(rows.select_related("account").order_by("-at", "-id")[:limit])


def place_of(entry: Entry) -> Place:
    """Where it stands in the list."""
    return Place(entry.row.at, entry.row.pk)


def _states(principal: Principal, ids: Sequence[UUID]) -> dict[UUID, str]:
    rows = Memory.objects.filter(project_id=principal.project.id, id__in=set(ids))
    return {
        id_: "live" if deleted_at is None else "deleted"
        for id_, deleted_at in rows.values_list("id", "deleted_at")
    }


def _entry(row: Revision, state: str) -> Entry:
    old, new = row.old_text, row.new_text
    changed = old is not None and new is not None and old != new
    return Entry(
        row=row,
        state=state,
        is_silent=old is None and new is None,
        difference=word_diff.difference(old or "", new or "") if changed else (),
        changes=list(_changes(row.changes)),
    )


def _changes(kept: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Field, before, after; of metadata what differs alone."""
    for name, change in sorted(kept.items()):
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


def people(principal: Principal) -> list[tuple[UUID, str]]:
    """Who has done anything in the project: id and name, by name; scope `read`."""
    principal.require(Scope.READ)
    acted = Revision.objects.filter(project_id=principal.project.id, account_id=OuterRef("id"))
    found = Account.objects.filter(Exists(acted)).order_by("name", "id")
    return list(found.values_list("id", "name"))


# --- Export --------------------------------------------------------------------------------------
def export(principal: Principal, chosen: Chosen, format_: str) -> Iterator[bytes]:
    """All entries that are meant, newest first, in pieces of UTF-8; each that was there at the
    beginning comes once. Cells of a CSV are inert in a spreadsheet.

    Refuses before the first piece, as `revisions` does; InvalidInputError for an unknown format.
    """
    if format_ not in FORMATS:
        raise InvalidInputError(f"Export as {' or '.join(FORMATS)}.")
    names = (*COLUMNS, *DETAILS) if Scope.ADMIN in principal.scopes else COLUMNS
    batches = _batches(revisions(principal, chosen))
    if format_ == "csv":
        rows = ([[_value(row, name) for name in names] for row in batch] for batch in batches)
        return spreadsheets.lines(names, rows)
    return _lines(batches, names)


def _batches(rows: QuerySet[Revision]) -> Iterator[list[Revision]]:
    behind: Place | None = None
    while found := _batch(rows, behind, BATCH):
        yield found
        behind = Place(found[-1].at, found[-1].pk)


def _value(row: Revision, name: str) -> Any:
    if name == "account":
        return row.account.name if row.account else ""
    return getattr(row, name)


def _lines(batches: Iterator[list[Revision]], names: Sequence[str]) -> Iterator[bytes]:
    for batch in batches:
        records = [{name: _value(row, name) for name in names} for row in batch]
        yield b"".join(dumps(record) + b"\n" for record in records)
