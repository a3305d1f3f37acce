"""Purges what is past its retention time: deleted memories, inputs, undo data, audit entries."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts import audit
from accounts.models import Project
from core.database import portions
from jobs.kinds import Kind
from jobs.running import JobRun
from memories.editing.forgetting import BATCH, forget_texts
from memories.models import AddInput, IngestClaim, Memory
from memories.models.adds import INPUT_DAYS
from memories.models.bulk import ACTIVE, Operation, OperationItem
from memories.providers import reembedding

logger = logging.getLogger(__name__)


def _nobody(total: int) -> None:
    """Ignores the progress."""


def purge_all(beat: Callable[[int], object] = _nobody) -> int:
    """Purges every project by its own retention time, and inputs after 30 days; how many memories.
    `beat` is called after each portion."""
    now, total = timezone.now(), 0
    old = AddInput.objects.filter(created_at__lt=now - timedelta(days=INPUT_DAYS)).exclude(
        outcome=AddInput.Outcome.RUNNING
    )
    claims = IngestClaim.objects.filter(lease_until__lt=now - timedelta(days=1))
    for rows in (old, claims):
        portions.delete(rows, BATCH, lambda _: beat(0))
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


def purge_operations(now: datetime, beat: Callable[[int], object] = _nobody) -> int:
    """Removes the undo data of bulk changes that can no longer be undone; how many items.

    The operation keeps who made each change, when, and how many memories it touched. The selection
    is removed, because it may contain the words of a memory.
    """
    over = Operation.objects.filter(
        Q(undo_until__lt=now) | Q(undo_until=None, finished_at__lt=now - timedelta(days=INPUT_DAYS))
    ).exclude(state__in=ACTIVE)
    total = 0
    for id_ in list(over.exclude(match={}).values_list("id", flat=True)):
        items = OperationItem.objects.filter(operation_id=id_)
        total += portions.delete(items, BATCH, lambda _: beat(0))
        Operation.objects.filter(id=id_).update(match={}, words="")
    return total


def purge_deleted(
    project: Project, *, older_than: object, beat: Callable[[int], object] = _nobody
) -> int:
    """Removes memories deleted before `older_than` if the index has stored the deletion.

    Their history keeps actor, event and time for the audit; its texts are removed.
    """
    total = 0
    over = Memory.objects.filter(deleted_at__lt=older_than, indexed_rev=F("rev"))
    ids_of = over.filter(project=project).values_list("id", flat=True)
    for ids in portions.portions(ids_of, BATCH):
        with transaction.atomic():
            # Check again under the lock: a memory that was restored meanwhile stays.
            ids_to_purge = [row.id for row in over.select_for_update().filter(id__in=ids)]
            forget_texts(ids_to_purge)
            Memory.objects.filter(id__in=ids_to_purge).delete()
        total += len(ids_to_purge)
        beat(total)
    return total


def _purge(run: JobRun) -> None:
    count = purge_all(run.beat)
    with run.finishing(f"{count:,} {'memory' if count == 1 else 'memories'} removed"):
        pass


def _drop(run: JobRun) -> None:
    model_key, total = run.payload["model_key"], 0
    while some := reembedding.drop_some(model_key):
        total += some
        run.beat(total)
    with run.finishing(f"{total:,} {'vector' if total == 1 else 'vectors'} removed"):
        pass


RETENTION: Final = Kind(
    name="memories.retention",
    title="Remove deleted memories",
    about=lambda _: "Those whose retention time is over, with old inputs, undo data and audit",
    handler=_purge,
    lease_seconds=120.0,
    schedule="every hour",
)
DROPPING: Final = Kind(
    name=reembedding.DROP,
    title="Remove unused vectors",
    about=lambda payload: str(payload.get("model_key", "")),
    handler=_drop,
)
