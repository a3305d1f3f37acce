"""The tables of bulk changes: what was asked for, and each memory that it is about."""

import uuid
from typing import Final

from django.db import models

from accounts.actor import ActedModel


class Operation(ActedModel):
    """A bulk change: who wanted what, how far it has come, and until when it can be undone.

    It stays as a part of the audit; its items go when the retention time ends.
    """

    class State(models.TextChoices):
        # The memories are being noted down; nothing has changed yet.
        PREPARING = "preparing"
        RUNNING = "running"
        DONE = "done"
        # The match was another one than was shown: nothing has changed. `problem` tells.
        STOPPED = "stopped"
        CANCELLED = "cancelled"
        UNDOING = "undoing"
        UNDONE = "undone"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(
        "accounts.Project", models.CASCADE, db_index=False, related_name="+"
    )
    action = models.CharField(max_length=20)
    # Of `expire` the time, of `confidence` the word.
    value = models.CharField(max_length=64, blank=True)
    # What it is about: {"ids": […]}, {"params": [[name, value], …]} or {"entity": [field, id]};
    # and the same in words. Both are emptied when one of the memories is erased.
    match = models.JSONField(default=dict)
    words = models.TextField(blank=True)
    # As it was shown: how many matched, and the digest of their ids and revisions.
    count = models.PositiveIntegerField()
    digest = models.CharField(max_length=32)
    planned_at = models.DateTimeField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.PREPARING)
    problem = models.TextField(blank=True)
    # Of `count`: changed; as wanted already; changed by others before it was their turn.
    done = models.PositiveIntegerField(default=0)
    unchanged = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)
    # Of `done`, by an undo: brought back; left alone, for they were changed since.
    undone = models.PositiveIntegerField(default=0)
    left = models.PositiveIntegerField(default=0)
    # The actor's, who asked for it.
    entity_limit = models.JSONField(null=True)
    # Who undid it, as Actor.plain.
    undone_by = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    # Null: not finished, nothing to undo, or no undo (erase).
    undo_until = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            models.Index(fields=["project", "created_at"], name="operation_newest"),
            models.Index(fields=["state", "created_at"], name="operation_state"),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.count} ({self.state})"

    @property
    def handled(self) -> int:
        """How many of `count` are behind it."""
        return self.done + self.unchanged + self.skipped

    @property
    def is_active(self) -> bool:
        """Whether the background work is at it or will be."""
        return self.state in ACTIVE


ACTIVE: Final = (Operation.State.PREPARING, Operation.State.RUNNING, Operation.State.UNDOING)


class OperationItem(models.Model):
    """One memory of an operation: the revision that was shown, and what it was like before."""

    class State(models.TextChoices):
        PENDING = "pending"
        DONE = "done"
        UNCHANGED = "unchanged"
        SKIPPED = "skipped"
        UNDONE = "undone"
        LEFT = "left"

    operation = models.ForeignKey(Operation, models.CASCADE, db_index=False, related_name="items")
    memory_id = models.UUIDField()
    # As it was shown; once done, as the change left it.
    rev = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    # {field: value} of what the change overwrote.
    before = models.JSONField(default=dict)

    class Meta:
        indexes = (models.Index(fields=["operation", "state", "id"], name="operation_item_turn"),)
        constraints = (
            # In this order it also finds what is kept of an erased memory.
            models.UniqueConstraint(
                fields=["memory_id", "operation"], name="one_item_per_memory_and_operation"
            ),
        )

    def __str__(self) -> str:
        return f"{self.memory_id} {self.state}"
