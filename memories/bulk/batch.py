"""What one batch of a bulk change writes: memories, history, and what an undo needs, in whose name.

All of it belongs into one transaction, in which the caller has locked the operation.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db.models import F
from django.utils import timezone

from core.principal import Principal
from memories import visibility
from memories.editing import change
from memories.editing.actions import DELETE, ERASE, RESTORE, BoundAction
from memories.editing.authors import principal_of_undo, reviewer_of
from memories.editing.change import Changes
from memories.models import Memory
from memories.models.bulk import Operation, OperationItem

Item = OperationItem.State


# --- In whose name -------------------------------------------------------------------------------


# --- One batch -----------------------------------------------------------------------------------
def rows_of(operation: Operation, items: Sequence[OperationItem]) -> dict[UUID, Memory]:
    """The memories of the items, locked in one order for all."""
    rows = Memory.objects.select_for_update().filter(
        visibility.in_project(operation.project_id), id__in=[item.memory_id for item in items]
    )
    return {row.id: row for row in rows.order_by("id")}


def carry_out(
    operation: Operation,
    wanted: BoundAction,
    items: Sequence[OperationItem],
    rows: Mapping[UUID, Memory],
    principal: Principal,
) -> list[Memory]:
    """Changes the memories of these items that still are as they were shown; which ones."""
    sorted_: dict[OperationItem.State, list[OperationItem]] = {state: [] for state in Item}
    for item in items:
        row = rows.get(item.memory_id)
        if row is None or row.rev != item.rev:
            sorted_[Item.SKIPPED].append(item)
        elif wanted.is_same(tuple(getattr(row, name) for name in wanted.columns)):
            sorted_[Item.UNCHANGED].append(item)
        else:
            sorted_[Item.DONE].append(item)
    todo = [rows[item.memory_id] for item in sorted_[Item.DONE]]
    now = timezone.now()
    values = wanted.values(reviewer_of(principal), now)
    if wanted.action == ERASE:
        change.erase(todo, principal=principal, at=now)
        changes: dict[UUID, Changes] = {row.id: {} for row in todo}
    else:
        changes = change.write(todo, values, principal=principal, event=wanted.event, at=now)
    _mark(sorted_[Item.DONE], Item.DONE, changes)
    for state in (Item.SKIPPED, Item.UNCHANGED):
        ids = [item.id for item in sorted_[state]]
        OperationItem.objects.filter(id__in=ids).update(state=state)
    Operation.objects.filter(pk=operation.pk).update(
        **{state.value: F(state.value) + len(found) for state, found in sorted_.items() if found}
    )
    return todo


def take_back(operation: Operation, items: Sequence[OperationItem]) -> list[Memory]:
    """Brings the memories of these items back that nobody has changed since; which ones."""
    rows = rows_of(operation, items)
    principal, now = principal_of_undo(operation), timezone.now()
    ours: list[OperationItem] = []
    left: list[int] = []
    for item in items:
        row = rows.get(item.memory_id)
        if row is None or row.rev != item.rev:
            left.append(item.id)
        else:
            ours.append(item)
    event = {DELETE: "RESTORE", RESTORE: "DELETE"}.get(operation.action, "UPDATE")
    groups = []
    for before, group in _alike(ours, lambda item: item.before):
        values = {name: change.from_json(name, value) for name, value in before.items()}
        if event == "DELETE":
            values["deleted_at"] = now  # its time to be purged begins again
        groups.append(([rows[item.memory_id] for item in group], values))
    changed = [rows[item.memory_id] for item in ours]
    change.mark_as_unchanged(changed)
    change.write_each(groups, principal=principal, event=event, at=now)
    done = OperationItem.objects.filter(id__in=[item.id for item in ours])
    done.update(state=Item.UNDONE, rev=F("rev") + 1, before={})
    OperationItem.objects.filter(id__in=left).update(state=Item.LEFT, before={})
    Operation.objects.filter(pk=operation.pk).update(
        undone=F("undone") + len(ours), left=F("left") + len(left)
    )
    return changed


def _mark(
    items: Sequence[OperationItem],
    state: OperationItem.State,
    changes: Mapping[UUID, Changes],
) -> None:
    """Writes down what the items' memories were like. Most are alike: one statement does many."""

    def before_of(item: OperationItem) -> dict[str, Any]:
        return {name: pair[0] for name, pair in changes[item.memory_id].items()}

    for before, group in _alike(items, before_of):
        OperationItem.objects.filter(id__in=[item.id for item in group]).update(
            state=state, rev=F("rev") + 1, before=before
        )


def _alike(
    items: Sequence[OperationItem], key: Callable[[OperationItem], dict[str, Any]]
) -> list[tuple[dict[str, Any], list[OperationItem]]]:
    """The items in groups of the same values."""
    groups: dict[str, tuple[dict[str, Any], list[OperationItem]]] = {}
    for item in items:
        values = key(item)
        groups.setdefault(json.dumps(values, sort_keys=True), (values, []))[1].append(item)
    return list(groups.values())
