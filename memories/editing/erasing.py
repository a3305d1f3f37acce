"""Erases memories at once, without an undo: single ones, or everything that a key has added."""

from collections.abc import Collection
from uuid import UUID

from django.db import transaction

from accounts.audit import AuditAction
from core.principal import Principal, Scope
from memories import runtime, visibility
from memories.editing import change, forgetting
from memories.editing.authors import record
from memories.filters import to_q
from memories.models import AddInput, Memory


def erase_memories(principal: Principal, ids: Collection[UUID]) -> int:
    """Removes text, vector, stored input and the texts in the history at once, without an undo.

    The history keeps who did what and when. Erases live and deleted memories; skips ids that the
    caller cannot reach. Returns how many were erased; scope `admin`.
    """
    principal.require(Scope.ADMIN)
    with transaction.atomic():
        rows = list(
            Memory.objects.select_for_update().filter(
                visibility.in_project(principal.project.id),
                to_q(visibility.limit_of(principal), principal.project.zone),
                id__in=list(ids),
            )
        )
        change.erase(rows, principal=principal)
        if rows:
            record(AuditAction.MEMORIES_ERASED, principal, {"memories": len(rows)})
    runtime.get_runtime().apply(rows)
    return len(rows)


def erase_added_with(principal: Principal, *, key_id: UUID) -> int:
    """Erases the memories that this API key has added to the project, all inputs of its adds (also
    of failed and empty ones) and the remembered messages of its conversations. Returns the number
    of memories; scope `admin`."""
    inputs = AddInput.objects.filter(project_id=principal.project.id, key_id=key_id)
    # First, because erasing removes the entities of the conversations.
    forgetting.forget_conversations(inputs)
    memories = Memory.objects.filter(
        project_id=principal.project.id, batch_id__in=inputs.values("id")
    )
    erased = erase_memories(principal, memories.values_list("id", flat=True))
    inputs.exclude(outcome=AddInput.Outcome.RUNNING).delete()
    return erased
