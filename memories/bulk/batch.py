"""Writes one batch of a bulk change: memories, history, and what an undo needs.

Everything runs inside one transaction, in which the caller has locked the operation.
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


# --- One batch -----------------------------------------------------------------------------------
def rows_of(operation: Operation, items: Sequence[OperationItem]) -> dict[UUID, Memory]:
    """The items' memories by id, locked in id order so that two batches cannot deadlock."""
    rows = Memory.objects.select_for_update().filter(
        visibility.in_project(operation.project_id), id__in=[item.memory_id for item in items]
    )
    return {row.id: row for row in rows.order_by("id")}


def carry_out(
    operation: Operation,
    action: BoundAction,
    items: Sequence[OperationItem],
    rows: Mapping[UUID, Memory],
    principal: Principal,
) -> list[Memory]:
    """Changes those of the items' memories that still have the previewed revision; returns them."""
    sorted_: dict[OperationItem.State, list[OperationItem]] = {state: [] for state in Item}
    for item in items:
        row = rows.get(item.memory_id)
        if row is None or row.rev != item.rev:
            sorted_[Item.SKIPPED].append(item)
        elif action.is_same(tuple(getattr(row, name) for name in action.columns)):
            sorted_[Item.UNCHANGED].append(item)
        else:
            sorted_[Item.DONE].append(item)
    todo = [rows[item.memory_id] for item in sorted_[Item.DONE]]
    now = timezone.now()
    values = action.values(reviewer_of(principal), now)
    if action.action == ERASE:
        change.erase(todo, principal=principal, at=now)
        changes: dict[UUID, Changes] = {row.id: {} for row in todo}
    else:
        changes = change.write(todo, values, principal=principal, event=action.event, at=now)
    _mark(sorted_[Item.DONE], Item.DONE, changes)
    for state in (Item.SKIPPED, Item.UNCHANGED):
        ids = [item.id for item in sorted_[state]]
        OperationItem.objects.filter(id__in=ids).update(state=state)
    Operation.objects.filter(pk=operation.pk).update(
        **{
            state.value: F(state.value) + len(items_in_state)
            for state, items_in_state in sorted_.items()
            if items_in_state
        }
    )
    return todo


def take_back(operation: Operation, items: Sequence[OperationItem]) -> list[Memory]:
    """Undoes the change for those of the items' memories that nobody has changed since; returns
    them."""
    rows = rows_of(operation, items)
    principal, now = principal_of_undo(operation), timezone.now()
    ours: list[OperationItem] = []
    skipped_ids: list[int] = []
    for item in items:
        row = rows.get(item.memory_id)
        if row is None or row.rev != item.rev:
            skipped_ids.append(item.id)
        else:
            ours.append(item)
    event = {DELETE: "RESTORE", RESTORE: "DELETE"}.get(operation.action, "UPDATE")
    groups = []
    for before, group in _alike(ours, lambda item: item.before):
        values = {name: change.from_json(name, value) for name, value in before.items()}
        if event == "DELETE":
            values["deleted_at"] = now  # the retention time starts again
        groups.append(([rows[item.memory_id] for item in group], values))
    changed = [rows[item.memory_id] for item in ours]
    change.mark_as_unchanged(changed)
    change.write_each(groups, principal=principal, event=event, at=now)
    undone_items = OperationItem.objects.filter(id__in=[item.id for item in ours])
    undone_items.update(state=Item.UNDONE, rev=F("rev") + 1, before={})
    OperationItem.objects.filter(id__in=skipped_ids).update(state=Item.LEFT, before={})
    Operation.objects.filter(pk=operation.pk).update(
        undone=F("undone") + len(ours), left=F("left") + len(skipped_ids)
    )
    return changed


def _mark(
    items: Sequence[OperationItem],
    state: OperationItem.State,
    changes: Mapping[UUID, Changes],
) -> None:
    """Stores the items' previous values. Most are equal, so one statement covers many items."""

    def before_of(item: OperationItem) -> dict[str, Any]:
        return {name: pair[0] for name, pair in changes[item.memory_id].items()}

    for before, group in _alike(items, before_of):
        OperationItem.objects.filter(id__in=[item.id for item in group]).update(
            state=state, rev=F("rev") + 1, before=before
        )


def _alike(
    items: Sequence[OperationItem], key: Callable[[OperationItem], dict[str, Any]]
) -> list[tuple[dict[str, Any], list[OperationItem]]]:
    """The items grouped by equal values."""
    groups: dict[str, tuple[dict[str, Any], list[OperationItem]]] = {}
    for item in items:
        values = key(item)
        groups.setdefault(json.dumps(values, sort_keys=True), (values, []))[1].append(item)
    return list(groups.values())
