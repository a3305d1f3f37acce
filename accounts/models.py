"""People and what they belong to: accounts, projects, memberships, and the instance itself."""

import uuid
from typing import Any, NoReturn

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.utils.crypto import salted_hmac

from accounts.actor import ActedModel
from core.principal import Scope


class Role(models.TextChoices):
    """What an account may do in one project; the table is in docs/rights.md."""

    MEMBER = "member"
    REVIEWER = "reviewer"
    ADMIN = "admin"


ROLE_SCOPES: dict[str, frozenset[Scope]] = {
    Role.MEMBER: frozenset({Scope.READ, Scope.WRITE}),
    Role.REVIEWER: frozenset({Scope.READ, Scope.WRITE, Scope.REVIEW}),
    Role.ADMIN: frozenset(Scope),
}


class Account(AbstractBaseUser):
    """A person who signs in by e-mail address (kept in lower case)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=150)
    is_active = models.BooleanField(default=True)
    # An instance owner is admin of every project.
    is_owner = models.BooleanField(default=False)
    # Raised by a new password, deactivation and a change of role: older sessions end at once.
    session_epoch = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    USERNAME_FIELD = "email"
    objects = BaseUserManager()

    def __str__(self) -> str:
        return self.email

    def _get_session_auth_hash(self, secret: Any = None) -> str:
        """Django's session hash with the epoch in it, so that raising it ends every session."""
        value = f"{self.password}:{self.session_epoch}"
        salt = "accounts.Account.session"
        return salted_hmac(salt, value, secret=secret, algorithm="sha256").hexdigest()


class Project(models.Model):
    """The isolation boundary: every memory and every key belongs to exactly one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=150)
    description = models.TextField(blank=True)
    # For calls that name no user, agent, app or run.
    default_user_id = models.CharField(max_length=255, blank=True)
    instructions = models.TextField(blank=True)
    categories = models.JSONField(default=list, blank=True)
    # Days until a deleted memory is purged; until then the deletion can be undone.
    retention_days = models.PositiveSmallIntegerField(default=30)
    hide_unreviewed = models.BooleanField(default=False)
    # An IANA name, such as Europe/Berlin; "" for DEFAULT_TIME_ZONE.
    time_zone = models.CharField(max_length=100, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """An account's role in a project."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships")
    account = models.ForeignKey(Account, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.MEMBER)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["project", "account"], name="one_role_per_project"),
        )

    def __str__(self) -> str:
        return f"{self.account_id} {self.role} of {self.project_id}"


class RefreshToken(models.Model):
    """A refresh token of a REST session: valid once, and only for its account's epoch."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, models.CASCADE, related_name="refresh_tokens")
    session_epoch = models.PositiveIntegerField()
    expires_at = models.DateTimeField(db_index=True)
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return str(self.id)


class Attempt(models.Model):
    """The number of attempts in a period; accounts.throttle defines `key`."""

    key = models.CharField(max_length=64)
    # Seconds since 1970.
    starts = models.BigIntegerField(db_index=True)
    count = models.PositiveIntegerField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["key", "starts"], name="one_count_per_bucket"),
        )

    def __str__(self) -> str:
        return f"{self.count} from {self.starts}"


class InstanceState(models.Model):
    """One row about this installation. Set-up is closed by this row, not by whether accounts exist.

    `encryption_check` is a known word encrypted with ENCRYPTION_KEY, to detect a wrong key at the
    start.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    owner_created_at = models.DateTimeField(null=True)
    setup_completed_at = models.DateTimeField(null=True)
    encryption_check = models.TextField(blank=True)

    class Meta:
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="one_instance_state"),)

    def __str__(self) -> str:
        return "set up" if self.setup_completed_at else "not set up"


class UnchangingRows(models.QuerySet["AuditEntry"]):
    """Rows that are written once. Only accounts.audit removes them, when they are old."""

    def update(self, **values: Any) -> NoReturn:
        raise TypeError(UNCHANGING)

    def delete(self) -> NoReturn:
        raise TypeError(UNCHANGING)


UNCHANGING = "An entry of the audit is never changed or deleted."


class AuditEntry(ActedModel):
    """One action that was done, tried or refused: actor, time, target. No code edits an entry.

    `action` is one of accounts.audit.AuditAction. An entry about the whole instance has no project.
    """

    project = models.ForeignKey(
        Project, models.SET_NULL, null=True, db_index=False, related_name="+"
    )
    # The id stays when the account is deleted. `actor_label` is its name at the time of the action,
    # "" without an account.
    account = models.ForeignKey(
        Account, models.DO_NOTHING, null=True, db_index=False, db_constraint=False, related_name="+"
    )
    actor_label = models.CharField(max_length=150, blank=True)
    action = models.CharField(max_length=40)
    # The thing that was acted on; the label is its name at that time.
    target_kind = models.CharField(max_length=20, blank=True)
    target_id = models.CharField(max_length=64, blank=True)
    target_label = models.CharField(max_length=254, blank=True)
    # What changed, as {field: [before, after]}, and other details; never a secret.
    details = models.JSONField(default=dict)
    # The client's address from accounts.throttle.address_subject; "" where it has no meaning.
    address = models.CharField(max_length=45, blank=True)
    # More than 1 only if one entry counts several refusals.
    count = models.PositiveIntegerField(default=1)
    at = models.DateTimeField()

    objects = UnchangingRows.as_manager()

    class Meta:
        indexes = (
            models.Index(fields=["project", "at"], name="audit_newest"),
            # For actions that are rare among a million others.
            models.Index(fields=["project", "action", "at"], name="audit_action"),
            models.Index(fields=["project", "account", "at"], name="audit_account"),
            models.Index(fields=["project", "key_prefix", "at"], name="audit_key"),
            models.Index(fields=["project", "client", "at"], name="audit_client"),
            models.Index(fields=["at"], name="audit_oldest"),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.target_label}".strip()

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError(UNCHANGING)
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(UNCHANGING)
