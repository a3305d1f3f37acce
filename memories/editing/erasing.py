"""Erases: takes texts, vectors, kept inputs and what was said away at once and for ever."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from accounts.audit import Action
from mem0dash.principal import Principal, Scope
from memories import runtime, visibility
from memories.editing.authors import record
from memories.filters import to_q
from memories.models import (
    AddInput,
    Memory,
    MemoryTokens,
    MemoryVector,
    Revision,
    SessionMessage,
)
from memories.models.adds import message_scope
from memories.models.bulk import Operation, OperationItem
from memories.storage import rows as records
from memories.storage.connections import streamed

BATCH: Final = 500
_CONVERSATION: Final = ("user_id", "agent_id", "run_id")


def erase(ids: Sequence[UUID]) -> None:
    """Takes text, vector, token states, kept input and the texts in the history away at once; the
    caller holds the transaction and has set `deleted_at`. The empty row stays until the index has
    let go."""
    forget_texts(ids)
    MemoryVector.objects.filter(memory_id__in=ids).delete()
    MemoryTokens.objects.filter(memory_id__in=ids).delete()
    Memory.objects.filter(id__in=ids).update(
        text="", text_fold="", metadata={}, categories=[], fingerprint="", source="", actor_id=""
    )


def forget_texts(ids: Sequence[UUID]) -> None:
    """Empties history, kept inputs and remembered messages that hold these memories' words."""
    rows = Memory.objects.filter(id__in=ids)
    _forget_unstored(ids)
    Revision.objects.filter(memory_id__in=ids).update(old_text=None, new_text=None, changes={})
    # What a bulk change overwrote, and the search that found it.
    told = OperationItem.objects.filter(memory_id__in=ids)
    Operation.objects.filter(id__in=told.values("operation_id")).update(match={}, words="")
    told.update(before={})
    # An add's input is kept under the batch id of what it brought.
    batches = [batch for batch in rows.values_list("batch_id", flat=True) if batch]
    AddInput.objects.filter(id__in=batches).update(messages=[], options={}, results=[])
    for project_id, *entities in rows.values_list("project_id", *_CONVERSATION).distinct():
        scope = message_scope(*entities)
        SessionMessage.objects.filter(project_id=project_id, scope=scope).delete()


def forget_conversations(inputs: Iterable[AddInput]) -> None:
    """Removes the remembered messages of the conversations that these adds belong to."""
    for kept in inputs:
        entities = kept.options.get("entities") or {}
        scope = message_scope(*(entities.get(name) or "" for name in _CONVERSATION))
        SessionMessage.objects.filter(project_id=kept.project_id, scope=scope).delete()


def _forget_unstored(ids: Sequence[UUID]) -> None:
    """Empties the inputs of adds that failed, where they brought one of these memories' texts."""
    told = Revision.objects.filter(memory_id__in=ids).values_list("old_text", "new_text")
    texts = {text for pair in told for text in pair if text}
    projects = Memory.objects.filter(id__in=ids).values("project_id")
    unstored = AddInput.objects.filter(project_id__in=projects).exclude(
        outcome__in=[AddInput.Outcome.STORED, AddInput.Outcome.RUNNING]
    )
    for kept in streamed(unstored, BATCH):
        if any(message.get("content") in texts for message in kept.messages):
            AddInput.objects.filter(pk=kept.pk).update(messages=[], options={}, results=[])


def erase_memories(principal: Principal, ids: Collection[UUID]) -> int:
    """Removes text, vector, kept input and the texts in the history at once and for ever.

    Who did what and when stays in the history. Live and deleted memories alike; ids that are not
    in the caller's reach are passed over. How many were erased; scope `admin`.
    """
    principal.require(Scope.ADMIN)
    now = timezone.now()
    with transaction.atomic():
        rows = list(
            Memory.objects.select_for_update().filter(
                visibility.in_project(principal.project.id),
                to_q(visibility.limit_of(principal), principal.project.zone),
                id__in=list(ids),
            )
        )
        erased = [row.id for row in rows]
        erase(erased)
        Memory.objects.filter(id__in=erased).update(
            deleted_at=now, updated_at=now, rev=F("rev") + 1
        )
        Revision.objects.bulk_create(
            records.revision(row, "ERASE", principal, at=now) for row in rows
        )
        if rows:
            record(Action.MEMORIES_ERASED, principal, {"memories": len(rows)})
    runtime.current().apply(rows)
    return len(rows)


def erase_added_with(principal: Principal, *, key_id: UUID) -> int:
    """Erases what this API key has added to the project, and the inputs of its adds, also of those
    that failed or brought nothing, with what is remembered of the conversations; how many
    memories. Scope `admin`."""
    inputs = AddInput.objects.filter(project_id=principal.project.id, key_id=key_id)
    # First, for erasing takes away what tells whose conversation it was.
    forget_conversations(inputs)
    added = Memory.objects.filter(project_id=principal.project.id, batch_id__in=inputs.values("id"))
    erased = erase_memories(principal, added.values_list("id", flat=True))
    inputs.exclude(outcome=AddInput.Outcome.RUNNING).delete()
    return erased
