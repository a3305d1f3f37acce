"""Removes for good: what was deleted long enough ago, old inputs, and what is erased on demand."""

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from accounts import audit
from accounts.models import Project
from memories.connections import streamed
from memories.models import (
    AddInput,
    IngestClaim,
    Memory,
    MemoryRetrieval,
    MemoryTokens,
    MemoryVector,
    Revision,
    SessionMessage,
)
from memories.operation import ACTIVE, Operation, OperationItem

logger = logging.getLogger(__name__)

INPUT_DAYS: Final = 30
BATCH: Final = 500
_CONVERSATION: Final = ("user_id", "agent_id", "run_id")


def _nobody(total: int) -> None:
    """Nobody has to hear of a portion."""


def purge_all(beat: Callable[[int], object] = _nobody) -> int:
    """Purges every project by its own retention, and inputs after 30 days; how many memories.
    `beat` hears of each portion."""
    now, total = timezone.now(), 0
    old = AddInput.objects.filter(created_at__lt=now - timedelta(days=INPUT_DAYS)).exclude(
        outcome=AddInput.Outcome.RUNNING
    )
    _in_portions(old, beat)
    _in_portions(IngestClaim.objects.filter(lease_until__lt=now - timedelta(days=1)), beat)
    purge_operations(now, beat)
    audit.prune(beat=lambda _: beat(0))
    for project in Project.objects.all():
        before = total
        total += purge_deleted(
            project,
            older_than=now - timedelta(days=project.retention_days),
            beat=lambda gone, before=before: beat(before + gone),  # type: ignore[misc]
        )
    if total:
        logger.info("purged deleted memories", extra={"memories": total})
    return total


def _in_portions(rows: QuerySet[Any], beat: Callable[[int], object]) -> None:
    while ids := list(rows.values_list("pk", flat=True)[:BATCH]):
        rows.filter(pk__in=ids).delete()
        beat(0)


def purge_operations(now: datetime, beat: Callable[[int], object] = _nobody) -> int:
    """Removes what bulk changes kept for an undo whose time is over; how many notes.

    That they were made, by whom, when and of how many memories, stays for the audit; what they
    were looked for by does not, for it may be the words of a memory.
    """
    over = Operation.objects.filter(
        Q(undo_until__lt=now) | Q(undo_until=None, finished_at__lt=now - timedelta(days=INPUT_DAYS))
    ).exclude(state__in=ACTIVE)
    total = 0
    for id_ in list(over.exclude(match={}).values_list("id", flat=True)):
        items = OperationItem.objects.filter(operation_id=id_)
        while some := list(items.values_list("id", flat=True)[:BATCH]):
            total += OperationItem.objects.filter(id__in=some).delete()[0]
            beat(0)
        Operation.objects.filter(id=id_).update(match={}, words="")
    return total


def purge_deleted(
    project: Project, *, older_than: object, beat: Callable[[int], object] = _nobody
) -> int:
    """Removes memories deleted before `older_than` whose deletion the index has on disk.

    Their history stays: actor, event and time for the audit, texts for the undo that no longer is
    are taken out.
    """
    total = 0
    while True:
        ids = list(
            Memory.objects.filter(
                project=project, deleted_at__lt=older_than, indexed_rev=F("rev")
            ).values_list("id", flat=True)[:BATCH]
        )
        if not ids:
            return total
        with transaction.atomic():
            # Once more under the lock: what was restored meanwhile stays.
            locked = Memory.objects.select_for_update().filter(
                id__in=ids, deleted_at__lt=older_than, indexed_rev=F("rev")
            )
            gone = [row.id for row in locked]
            _forget_texts(gone)
            Memory.objects.filter(id__in=gone).delete()
        total += len(gone)
        beat(total)


def erase(ids: Sequence[UUID]) -> None:
    """Takes text, vector, token states, retrievals, kept input and the texts in the history away at
    once; the caller holds the transaction and has set `deleted_at`. The empty row stays until the
    index has let go."""
    _forget_texts(ids)
    for kept in (MemoryVector, MemoryTokens, MemoryRetrieval):
        kept.objects.filter(memory_id__in=ids).delete()
    Memory.objects.filter(id__in=ids).update(
        text="", text_fold="", metadata={}, categories=[], fingerprint="", source="", actor_id=""
    )


def _forget_texts(ids: Sequence[UUID]) -> None:
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


def message_scope(user_id: str, agent_id: str, run_id: str) -> str:
    """The conversation that remembered messages belong to, as SessionMessage names it."""
    return "\x1f".join((user_id, agent_id, run_id))
