"""Writes. Each one authorises, writes rows, vectors and revisions in one transaction, and then
updates the index."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from accounts.audit import AuditAction
from core import disk, limits
from core.database.portions import portions
from core.errors import ConflictError, InvalidInputError
from core.principal import Principal, Scope
from memories import queries, runtime, visibility
from memories.editing import change
from memories.editing.authors import record
from memories.editing.erasing import erase_added_with, erase_memories
from memories.editing.undo import undo_change
from memories.filters import EVERYTHING, Node, to_q
from memories.models import Memory
from memories.readings import Reading
from memories.storage.rows import (
    RESERVED_METADATA,
    adopted_app,
    check_times,
    provenance,
    replace_reading,
    text_to_embed,
)

BATCH: Final = 500
UPDATE_ATTEMPTS: Final = 5
__all__ = [
    "UNSET",
    "delete_matching",
    "delete_memory",
    "erase_added_with",
    "erase_memories",
    "reset_project",
    "restore_memories",
    "undo_change",
    "update_memory",
]


class UnsetType:
    """Marks an argument that was not given, where None means "clear it"."""


UNSET: Final = UnsetType()


def update_memory(
    principal: Principal,
    memory_id: str | UUID,
    *,
    text: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    expiration_date: date | UnsetType | None = UNSET,
    replace_metadata: bool = False,
    expected_rev: int | None = None,
) -> Memory:
    """Changes text, metadata (merged key by key, or replaced) or expiry, whichever is given.

    Only a new text is embedded. Raises NotFoundError, InvalidInputError, PermissionDeniedError
    (scope `write`), DiskFullError, ConflictError when the memory is no longer at `expected_rev`,
    EngineError when the embedder fails; nothing has changed then.
    """
    principal.require(Scope.WRITE)
    if text is None and metadata is None and isinstance(expiration_date, UnsetType):
        raise InvalidInputError(
            "At least one of text, metadata, or expiration_date must be provided."
        )
    if text is not None and not text.strip():
        raise InvalidInputError("text cannot be empty or whitespace-only.")
    limits.check_text(text or "")
    limits.check_metadata(metadata or {})
    disk.check_room(len(text or ""))
    for _ in range(UPDATE_ATTEMPTS):
        current = queries.find(principal, memory_id)
        reading = Reading(None)
        engine = runtime.get_runtime().engine
        if text is not None and text != current.text:
            [reading] = engine.read([text_to_embed(current, text)])
        with transaction.atomic():
            memory = change.locked(principal, current.id)
            if expected_rev not in (None, memory.rev):
                raise ConflictError("This memory was changed by others meanwhile.")
            if text is not None and memory.text != current.text:
                continue  # the text changed while ours was embedded: try again
            before = memory.text
            values = _values(
                memory, principal, text, metadata, expiration_date, replace=replace_metadata
            )
            change.write([memory], values, principal=principal)
            if memory.text != before:
                keys = (engine.model_key, engine.states_key)
                replace_reading(memory, reading, *keys)
        runtime.get_runtime().apply([memory])
        return memory
    raise ConflictError("This memory is being changed by others; try again.")


def _values(
    memory: Memory,
    principal: Principal,
    text: str | None,
    metadata: Mapping[str, Any] | None,
    expiration_date: date | UnsetType | None,
    *,
    replace: bool,
) -> dict[str, Any]:
    """The new values of the columns that the caller may set."""
    values: dict[str, Any] = {}
    if text is not None:
        values["text"] = text
    if metadata is not None:
        free_metadata = {k: v for k, v in metadata.items() if k not in RESERVED_METADATA}
        values["metadata"] = free_metadata if replace else {**memory.metadata, **free_metadata}
        limits.check_metadata(values["metadata"])
        # Only changed keys set columns: a reviewer may have changed the others since.
        new = {k: v for k, v in metadata.items() if memory.metadata.get(k) != v}
        check_times(new)
        if replace:
            free_metadata = {k: v for k, v in free_metadata.items() if k in new}
        promoted = provenance(free_metadata, principal)
        if Scope.REVIEW not in principal.scopes:
            promoted.pop("review_status", None)  # only reviewers change a review status
        values.update(promoted)
        if (app_id := adopted_app(free_metadata)) and principal.may_use("app_id", app_id):
            values["app_id"] = app_id
    if not isinstance(expiration_date, UnsetType):
        values["expiration_date"] = expiration_date
    return values


def delete_memory(principal: Principal, memory_id: str | UUID) -> None:
    """Hides the memory everywhere at once; it can be restored until the retention time ends.

    NotFoundError if it is missing, deleted already or in another project; scope `write`.
    """
    principal.require(Scope.WRITE)
    id_ = visibility.as_uuid(memory_id)
    with transaction.atomic():
        memory = change.locked(principal, id_)
        change.delete([memory], principal=principal)
    runtime.get_runtime().apply([memory])


def delete_matching(principal: Principal, where: Node) -> int:
    """Deletes every reachable memory that matches, of any status; how many. Scope `admin`."""
    principal.require(Scope.ADMIN, "Admin role required.")
    total = 0
    matching = visibility.filter_reachable(principal).filter(to_q(where, principal.project.zone))
    for memories in portions(matching.order_by("id"), BATCH):
        with transaction.atomic():
            # Filter again: a memory that changed meanwhile may not match any more.
            ids = [memory.id for memory in memories]
            again = visibility.filter_reachable(principal, by_id=True).filter(
                to_q(where, principal.project.zone), id__in=ids
            )
            locked = list(again.select_for_update())
            change.delete(locked, principal=principal)
        runtime.get_runtime().apply(locked)
        total += len(locked)
    return total


def reset_project(principal: Principal) -> int:
    """Deletes every memory that the caller can reach in the project; how many. Scope `admin`.

    Like every deletion, this can be undone until the retention time ends.
    """
    principal.require(Scope.ADMIN, "Admin role required.")
    # Before the first portion, so that a reset that fails half-way is in the audit too.
    record(AuditAction.PROJECT_RESET, principal, {})
    return delete_matching(principal, EVERYTHING)


def restore_memories(principal: Principal, ids: Collection[UUID]) -> list[UUID]:
    """Restores deleted memories; returns their ids. Scope `review`.

    ConflictError if one of them has been purged or never existed; nothing is restored then.
    """
    principal.require(Scope.REVIEW)
    requested = set(ids)
    with transaction.atomic():
        rows = list(
            Memory.objects.select_for_update()
            .filter(
                visibility.in_project(principal.project.id),
                to_q(visibility.limit_of(principal), principal.project.zone),
                id__in=requested,
            )
            .exclude(deleted_at=None)
            .exclude(text="")
        )
        missing = requested - {row.id for row in rows}
        if missing:
            raise ConflictError(f"{len(missing)} of these memories cannot be restored any more.")
        change.restore(rows, principal=principal)
    runtime.get_runtime().apply(rows)
    return [row.id for row in rows]
