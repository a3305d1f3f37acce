"""Removes the texts of memories from the history, stored inputs and remembered messages."""

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
    """Removes vector, token states, stored input and the texts in the history, in the transaction
    that empties the row (`change.erase`)."""
    forget_texts(ids)
    for model in (MemoryVector, MemoryTokens, MemoryRetrieval):
        model.objects.filter(memory_id__in=ids).delete()


def forget_texts(ids: Sequence[UUID]) -> None:
    """Empties the history, stored inputs and remembered messages that contain these memories'
    texts."""
    rows = Memory.objects.filter(id__in=ids)
    _forget_unstored(ids)
    Revision.objects.filter(memory_id__in=ids).update(old_text=None, new_text=None, changes={})
    # The values that a bulk change overwrote, and the selection that matched.
    items = OperationItem.objects.filter(memory_id__in=ids)
    Operation.objects.filter(id__in=items.values("operation_id")).update(match={}, words="")
    items.update(before={})
    # The id of an add's input is the batch id of its memories.
    batches = [batch for batch in rows.values_list("batch_id", flat=True) if batch]
    AddInput.objects.filter(id__in=batches).update(messages=[], options={}, results=[])
    for project_id, *entities in rows.values_list("project_id", *_CONVERSATION).distinct():
        scope = message_scope(*entities)
        SessionMessage.objects.filter(project_id=project_id, scope=scope).delete()


def forget_conversations(inputs: Iterable[AddInput]) -> None:
    """Removes the remembered messages of the conversations that these adds belong to."""
    for input_ in inputs:
        entities = input_.options.get("entities") or {}
        scope = message_scope(*(entities.get(name) or "" for name in _CONVERSATION))
        SessionMessage.objects.filter(project_id=input_.project_id, scope=scope).delete()


def _forget_unstored(ids: Sequence[UUID]) -> None:
    """Empties the inputs of failed adds that contain one of these memories' texts."""
    old_and_new = Revision.objects.filter(memory_id__in=ids).values_list("old_text", "new_text")
    texts = {text for pair in old_and_new for text in pair if text}
    projects = Memory.objects.filter(id__in=ids).values("project_id")
    unstored = AddInput.objects.filter(project_id__in=projects).exclude(
        outcome__in=[AddInput.Outcome.STORED, AddInput.Outcome.RUNNING]
    )
    for input_ in stream(unstored, BATCH):
        if any(message.get("content") in texts for message in input_.messages):
            AddInput.objects.filter(pk=input_.pk).update(messages=[], options={}, results=[])
