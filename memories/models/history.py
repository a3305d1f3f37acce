"""What happened to a memory, and who did it."""

from django.db import models

from accounts.actor import ActedModel


class Revision(ActedModel):
    """One entry of a memory's history, which is the audit as well: who, when, what changed.

    It outlives its memory. `changes` maps a field to [before, after].
    """

    project = models.ForeignKey("accounts.Project", models.CASCADE, related_name="+")
    memory_id = models.UUIDField(db_index=True)
    event = models.CharField(max_length=10)
    old_text = models.TextField(null=True)  # noqa: DJ001  (null tells "no text before" from "")
    new_text = models.TextField(null=True)  # noqa: DJ001  (null tells "no text after" from "")
    changes = models.JSONField(default=dict)
    memory_created_at = models.DateTimeField()
    actor_id = models.CharField(max_length=255, blank=True)
    role = models.CharField(max_length=50, blank=True)
    at = models.DateTimeField()

    class Meta:
        indexes = (
            models.Index(fields=["project", "at"], name="revision_at"),
            # Each way to narrow the activity down: what is rare is among a million that are not.
            models.Index(fields=["project", "event", "at"], name="revision_event"),
            models.Index(fields=["project", "account", "at"], name="revision_account"),
            models.Index(fields=["project", "key_prefix", "at"], name="revision_key"),
            models.Index(fields=["project", "client", "at"], name="revision_client"),
        )

    def __str__(self) -> str:
        return f"{self.event} {self.memory_id}"
