"""Takes away what was said: in the history, kept inputs and remembered messages."""

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from memories.models import (
    AddInput,
    Memory,
    MemoryRetrieval,
    MemoryTokens,
    MemoryVector,
    Revision,
    SessionMessage,
)
from memories.models.adds import message_scope
from memories.models.bulk import Operation, OperationItem
from memories.storage.connections import stream

BATCH: Final = 500
_CONVERSATION: Final = ("user_id", "agent_id", "run_id")


def forget(ids: Sequence[UUID]) -> None:
    """Takes vector, token states, kept input and the texts in the history away at once, in the
    transaction of who empties the row (`change.erase`)."""
    forget_texts(ids)
    for kept in (MemoryVector, MemoryTokens, MemoryRetrieval):
        kept.objects.filter(memory_id__in=ids).delete()


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
    for kept in stream(unstored, BATCH):
        if any(message.get("content") in texts for message in kept.messages):
            AddInput.objects.filter(pk=kept.pk).update(messages=[], options={}, results=[])
