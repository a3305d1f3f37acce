"""The one writer of changes: a memory's columns, the entry in its history, and the event.

Everything runs in the transaction of the caller, who has locked the memories.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from django.db.models import F
from django.utils import timezone

from core.errors import NotFoundError
from core.principal import Principal
from memories import texts, visibility
from memories.editing import forgetting
from memories.models import Memory, Revision
from memories.models.bulk import OperationItem
from memories.storage import revisions

# {field: [before, after]}, in JSON's types.
Changes = dict[str, list[Any]]

_TIMES: Final = frozenset({"reviewed_at", "expires_at", "deleted_at"})
# What erasing leaves of a memory. The empty row stays until the index has dropped it.
_ERASED: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("text", "text_fold", "fingerprint", "source", "actor_id"), ""),
    "metadata": {},
    "categories": [],
}


def locked(principal: Principal, memory_id: UUID) -> Memory:
    """Locks the caller's memory until the transaction ends. NotFoundError if it is missing, deleted
    or in another project."""
    row = visibility.filter_reachable(principal).select_for_update().filter(id=memory_id).first()
    if row is None:
        raise NotFoundError(f"Memory with id {memory_id} not found")
    return row


def write(
    memories: Sequence[Memory],
    values: Mapping[str, Any],
    *,
    principal: Principal,
    event: str = "UPDATE",
    at: datetime | None = None,
    fingerprint: str = "",
) -> dict[UUID, Changes]:
    """Sets these columns of all the memories; returns the changes of each.

    A new text also sets its fold and its fingerprint, which `fingerprint` overrides. `event` is
    UPDATE, DELETE or RESTORE.
    """
    groups = [(memories, values)]
    return write_each(groups, principal=principal, event=event, at=at, fingerprint=fingerprint)


def write_each(
    groups: Sequence[tuple[Sequence[Memory], Mapping[str, Any]]],
    *,
    principal: Principal,
    event: str = "UPDATE",
    at: datetime | None = None,
    fingerprint: str = "",
) -> dict[UUID, Changes]:
    """As `write`, with separate values for each group of memories."""
    at = at or timezone.now()
    changes: dict[UUID, Changes] = {}
    entries: list[Revision] = []
    for memories, values in groups:
        changes |= {memory.id: changed(memory, values) for memory in memories}
        changed_names = {name for memory in memories for name in changes[memory.id]}
        columns = {name: value for name, value in values.items() if name in changed_names}
        # Only a new text gets a new fingerprint; memories of one add may share theirs.
        if "text" in columns:
            text = columns["text"]
            columns["text_fold"] = texts.fold(text)
            columns["fingerprint"] = fingerprint or texts.fingerprint(text)
        before = [memory.text for memory in memories]
        _set(memories, columns, at)
        entries += [
            _entry(memory, event, principal, text, changes[memory.id])
            for memory, text in zip(memories, before, strict=True)
        ]
    revisions.record(entries)
    return changes


def _entry(
    memory: Memory, event: str, principal: Principal, before: str, changes: Changes
) -> Revision:
    column_changes = {name: change for name, change in changes.items() if name != "text"}
    return revisions.entry(
        memory,
        event,
        principal,
        old_text=before if event in {"UPDATE", "DELETE"} else None,
        new_text=memory.text if event in {"UPDATE", "RESTORE"} else None,
        changes=column_changes if event == "UPDATE" else {},
        at=memory.updated_at,
    )


def delete(
    memories: Sequence[Memory], *, principal: Principal, at: datetime | None = None
) -> dict[UUID, Changes]:
    """Hides the memories; they can be restored until the retention time ends."""
    at = at or timezone.now()
    return write(memories, {"deleted_at": at}, principal=principal, event="DELETE", at=at)


def restore(
    memories: Sequence[Memory], *, principal: Principal, at: datetime | None = None
) -> dict[UUID, Changes]:
    """Brings deleted memories back as they were."""
    return write(memories, {"deleted_at": None}, principal=principal, event="RESTORE", at=at)


def erase(memories: Sequence[Memory], *, principal: Principal, at: datetime | None = None) -> None:
    """Removes text, vector, token states, stored input and the texts in the history at once. The
    history keeps who erased the memory and when."""
    at = at or timezone.now()
    # Before the columns are emptied, because the entry names the memory's entities.
    entries = [revisions.entry(memory, "ERASE", principal, at=at) for memory in memories]
    forgetting.forget([memory.id for memory in memories])
    _set(memories, {**_ERASED, "deleted_at": at}, at)
    revisions.record(entries)


def _set(memories: Sequence[Memory], columns: Mapping[str, Any], at: datetime) -> None:
    Memory.objects.filter(id__in=[memory.id for memory in memories]).update(
        **columns, updated_at=at, rev=F("rev") + 1
    )
    for memory in memories:
        for name, value in columns.items():
            setattr(memory, name, value)
        memory.updated_at = at
        memory.rev += 1


def mark_as_unchanged(memories: Sequence[Memory]) -> None:
    """Prepares an undo of these memories' last change: after it, the operation before that one can
    be undone as well, because its items get the new revision."""
    alike: dict[int, list[UUID]] = {}
    for memory in memories:
        alike.setdefault(memory.rev, []).append(memory.id)
    for rev, ids in alike.items():
        earlier = OperationItem.objects.filter(
            memory_id__in=ids, rev=rev - 1, state=OperationItem.State.DONE
        )
        earlier.update(rev=rev + 1)


# --- Values --------------------------------------------------------------------------------------
def changed(memory: Memory, values: Mapping[str, Any]) -> Changes:
    """The changes that setting `values` makes to the memory."""
    return {
        name: [_plain(getattr(memory, name)), _plain(value)]
        for name, value in values.items()
        if getattr(memory, name) != value
    }


def _plain(value: Any) -> Any:
    """A column's value for JSON."""
    return value.isoformat() if isinstance(value, date | datetime) else value


def from_json(field: str, value: Any) -> Any:
    """A column's value from JSON."""
    if value is None:
        return None
    if field in _TIMES:
        return texts.parse_instant(value)
    return date.fromisoformat(value) if field == "expiration_date" else value
