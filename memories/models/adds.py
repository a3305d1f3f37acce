"""What adds keep: their input, the claim on their content, the last messages of a conversation."""

import uuid
from typing import Final

from django.db import models
from django.db.models import Q

from accounts.actor import ActedModel


class AddInput(ActedModel):
    """What an add was given and what became of it: evidence for review, and a retry after failure.

    `results` is the answer that was given; requests that came in while this one ran get the same,
    and so does a later one that names the same `idempotency_key`.
    """

    class Outcome(models.TextChoices):
        RUNNING = "running"
        STORED = "stored"
        NOTHING_EXTRACTED = "nothing"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(
        "accounts.Project", models.CASCADE, db_index=False, related_name="+"
    )
    messages = models.JSONField()
    options = models.JSONField(default=dict)
    # SHA-256 of the whole request, as in IngestClaim.
    digest = models.CharField(max_length=64, blank=True)
    idempotency_key = models.CharField(max_length=255, blank=True)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, default=Outcome.RUNNING)
    # Of a failure: the sentence and the code that the caller got, and what the provider said.
    reason = models.TextField(blank=True)
    code = models.CharField(max_length=40, blank=True)
    cause = models.TextField(blank=True)
    results = models.JSONField(default=list)
    via = key_prefix = client = None  # type: ignore[assignment]  # its revisions have them
    created_at = models.DateTimeField(db_index=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            # What failed, among a hundred thousand inputs that did not.
            models.Index(fields=["project", "outcome", "created_at"], name="add_outcome"),
            # Whether what failed was sent again since.
            models.Index(fields=["project", "digest"], name="add_digest"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["project", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="one_add_per_idempotency_key",
            ),
        )

    def __str__(self) -> str:
        return f"{self.id} {self.outcome}"


class IngestClaim(models.Model):
    """An add in flight. A second identical request waits for it instead of storing twice."""

    digest = models.CharField(max_length=64, primary_key=True)
    input = models.ForeignKey(AddInput, models.CASCADE, related_name="+")
    lease_until = models.DateTimeField()

    def __str__(self) -> str:
        return self.digest


class SessionMessage(models.Model):
    """A recent message of a conversation, which the extraction reads as context."""

    project = models.ForeignKey("accounts.Project", models.CASCADE, related_name="+")
    scope = models.CharField(max_length=800)
    role = models.CharField(max_length=50, blank=True)
    content = models.TextField(blank=True)
    name = models.CharField(max_length=255, blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = (models.Index(fields=["project", "scope", "id"], name="session_message_scope"),)

    def __str__(self) -> str:
        return f"{self.scope} {self.role}"


INPUT_DAYS: Final = 30


def message_scope(user_id: str, agent_id: str, run_id: str) -> str:
    """The conversation that remembered messages belong to, as SessionMessage names it."""
    return "\x1f".join((user_id, agent_id, run_id))
