"""API keys: shown once, stored as a digest."""

import uuid

from django.db import models


class ApiKey(models.Model):
    """A key of one account in one project.

    `digest` is the SHA-256 of the whole key in hex: 256 random bits need no slow hash. `prefix`
    (12 characters) and `last4` are what people recognise it by. `entity_limit` maps an entity field
    to the only values the key may touch, such as {"user_id": ["alice"]}; null is no limit.

    `made_by` is the id of the key that made this one: revoking that one revokes this one as well.
    `made_via` is the kind of caller that made it: a Via of core.principal, "" for the command
    line.

    A key that was imported from mem0's own server comes as a `bcrypt` hash; it has no digest and no
    `last4` until it is first used.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey("accounts.Project", models.CASCADE, related_name="api_keys")
    owner = models.ForeignKey("accounts.Account", models.CASCADE, related_name="api_keys")
    label = models.CharField(max_length=150)
    prefix = models.CharField(max_length=12)
    last4 = models.CharField(max_length=4, blank=True)
    digest = models.CharField(max_length=64, unique=True, null=True)  # noqa: DJ001  (unique)
    bcrypt = models.CharField(max_length=60, blank=True)
    scopes = models.JSONField(default=list)
    entity_limit = models.JSONField(null=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    made_by = models.UUIDField(null=True, db_index=True)
    made_via = models.CharField(max_length=16, blank=True, default="")

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=models.Q(digest__isnull=False) | ~models.Q(bcrypt=""),
                name="key_can_be_verified",
            ),
        )
        indexes = (
            # Nearly empty, so that a lookup of an unknown key costs next to nothing.
            models.Index(
                fields=["prefix"],
                name="imported_key_prefix",
                condition=models.Q(digest=None, revoked_at=None),
            ),
        )

    def __str__(self) -> str:
        return f"{self.label} ({self.prefix}…{self.last4})"
