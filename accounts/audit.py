"""Every change of keys, people, providers, settings and jobs leaves an entry that nothing edits.

The entry is written in the transaction of the change: there is never one without the other. Signing
in and out, and refusals, must succeed even if their entry cannot be written, and a caller without a
credential must not fill the disk with entries: see `record_sign_in` and `record_refusal`.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db import Error as AnyDatabaseError
from django.db.models import F, QuerySet
from django.utils import timezone

from accounts import throttle
from accounts.models import Account, AuditEntry, UnchangingRows
from accounts.throttle import Limit, RateLimitedError
from core.database import portions
from core.database.sqlite3.turns import at_most
from core.principal import Actor, Principal, Scope

logger = logging.getLogger(__name__)

PRUNE_ROWS: Final = 5_000
# Seconds that the entry of a sign-in, a sign-out or a refusal waits for other writers.
WRITING_SECONDS: Final = 5.0
# This many refusals get their own entry: from one address, about one account, and in all. One entry
# an hour counts the rest.
REFUSED_HERE: Final = Limit("audit-refused-here", 5, 60, 60)
REFUSED_ACCOUNT: Final = Limit("audit-refused-account", 5, 60, 60)
REFUSED: Final = Limit("audit-refused", 100, 3600, 3600)
# The target kind of that counting entry.
MANY: Final = "many"
# Stands for a secret among the details.
CHANGED: Final = "changed"


class AuditAction(StrEnum):
    """What was done, as noun and verb."""

    KEY_MADE = "key.made"
    KEY_REVOKED = "key.revoked"
    KEY_IMPORTED = "key.imported"
    APP_CONNECTED = "app.connected"
    APP_REVOKED = "app.revoked"
    APP_REPLAYED = "app.replayed"
    ACCOUNT_MADE = "account.made"
    ACCOUNT_CHANGED = "account.changed"
    ACCOUNT_DEACTIVATED = "account.deactivated"
    ACCOUNT_ACTIVATED = "account.activated"
    PASSWORD_CHANGED = "password.changed"  # noqa: S105  (no password)
    PASSWORD_RESET = "password.reset"  # noqa: S105  (as that)
    PASSWORD_REFUSED = "password.refused"  # noqa: S105  (as that)
    SESSION_OPENED = "session.opened"
    SESSION_CLOSED = "session.closed"
    SESSION_REFUSED = "session.refused"
    SESSION_REPLAYED = "session.replayed"
    SETUP_REFUSED = "setup.refused"
    SETUP_STEP = "setup.step_done"
    SETUP_COMPLETED = "setup.completed"
    PROVIDERS_CONFIGURED = "providers.configured"
    REEMBEDDING_BEGUN = "reembedding.begun"
    REEMBEDDING_CANCELLED = "reembedding.cancelled"
    REEMBEDDING_DONE = "reembedding.done"
    VECTORS_REMOVED = "vectors.removed"
    LATE_INTERACTION_ON = "late_interaction.on"
    LATE_INTERACTION_OFF = "late_interaction.off"
    LATE_INTERACTION_REMOVED = "late_interaction.removed"
    INSTRUCTIONS_CHANGED = "instructions.changed"
    TIME_ZONE_CHANGED = "time_zone.changed"
    PROJECT_RESET = "project.reset"
    MEMORIES_ERASED = "memories.erased"
    DEMO_REMOVED = "demo.removed"
    JOB_CANCELLED = "job.cancelled"
    JOB_RETRIED = "job.retried"
    JOB_STARTED = "job.started"
    BULK_CHANGE_CANCELLED = "bulk_change.cancelled"
    ENCRYPTION_KEY_ROTATED = "encryption_key.rotated"
    DATABASE_COPIED = "database.copied"


# For filtering entries by what they are about: kind -> nouns of actions.
_NOUNS: Final = {
    "keys": ("key",),
    "apps": ("app",),
    "people": ("account", "password"),
    "sign-ins": ("session",),
    "set-up": ("setup",),
    "settings": (
        *("providers", "reembedding", "vectors", "late_interaction", "instructions", "time_zone"),
    ),
    "jobs": ("job", "bulk_change"),
    "data": ("project", "memories", "demo", "encryption_key", "database"),
}
KINDS: Final = {
    kind: tuple(action for action in AuditAction if action.partition(".")[0] in nouns)
    for kind, nouns in _NOUNS.items()
}


class AuditTarget(NamedTuple):
    """The thing that was acted on. People can still read the label when the thing is gone."""

    kind: str = ""
    id: UUID | str = ""
    label: str = ""


NOTHING: Final = AuditTarget()


def account_target(account: Account) -> AuditTarget:
    """An account as entries name it."""
    name = account.name or account.email
    label = name if name == account.email else f"{name} ({account.email})"
    return AuditTarget("account", account.id, label)


def record(
    action: AuditAction,
    *,
    actor: Actor,
    project_id: UUID | None = None,
    target: AuditTarget = NOTHING,
    details: Mapping[str, Any] | None = None,
    address: str = "",
    using: str = DEFAULT_DB_ALIAS,
) -> None:
    """Writes an entry, in the caller's transaction. Raises if it cannot be written, so that the
    change is rolled back with it.

    `details` must be JSON and hold no secret: a changed secret is given as CHANGED.
    """
    AuditEntry(
        **AuditEntry.columns(actor),
        actor_label=_fit(_name_of(actor, using), 150),
        action=action,
        project_id=project_id,
        target_kind=target.kind,
        target_id=str(target.id),
        target_label=_fit(target.label, 254),
        details=dict(details or {}),
        address=_fit(address, 45),
        at=timezone.now(),
    ).save(using=using, force_insert=True)


def _name_of(actor: Actor, using: str) -> str:
    if actor.account_id is None:
        return ""
    account = Account.objects.using(using).filter(id=actor.account_id).first()
    return (account.name or account.email) if account else ""


def _fit(text: str, length: int) -> str:
    """Text that every database can keep."""
    return text.replace("\0", "\ufffd")[:length]


def record_sign_in(
    action: AuditAction, *, actor: Actor, target: AuditTarget = NOTHING, address: str = ""
) -> None:
    """As `record`, for signing in and out. If the entry cannot be written, the log says so."""
    try:
        with at_most(WRITING_SECONDS), transaction.atomic():
            record(action, actor=actor, target=target, address=address)
    except AnyDatabaseError:
        told = {"action": action.value, "account": str(actor.account_id)}
        logger.warning("an entry of the audit could not be written", extra=told, exc_info=True)


def record_refusal(
    action: AuditAction, *, actor: Actor, target: AuditTarget = NOTHING, address: str = ""
) -> None:
    """As `record_sign_in`, for refusals. Anybody can cause any number of them, so the limits above
    apply, and one entry counts the rest."""
    try:
        with at_most(WRITING_SECONDS), transaction.atomic():
            if _has_room(target, address):
                record(action, actor=actor, target=target, address=address)
            else:
                _count(action)
    except AnyDatabaseError:
        told = {"action": action.value}
        logger.warning("an entry of the audit could not be written", extra=told, exc_info=True)


def _has_room(target: AuditTarget, address: str) -> bool:
    try:
        throttle.take(REFUSED_HERE, address)
        throttle.take(REFUSED_ACCOUNT, str(target.id or target.label))
        throttle.take(REFUSED, "")
    except RateLimitedError:
        return False
    return True


def _count(action: AuditAction) -> None:
    """Adds one to this hour's entry. Two processes that begin an hour together make two entries."""
    now = timezone.now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    rows = _changing()
    this_hour = rows.filter(project=None, action=action, at__gte=hour, target_kind=MANY)
    found = this_hour.order_by("at", "id").values_list("pk", flat=True).first()
    if found is None:
        AuditEntry(action=action, target_kind=MANY, at=now).save(force_insert=True)
    else:
        rows.filter(pk=found).update(count=F("count") + 1)


def _changing() -> "QuerySet[AuditEntry]":
    """The rows without the guard against changes, for this module alone."""
    return QuerySet(AuditEntry)


def prune(*, beat: Callable[[int], object] = lambda total: None) -> int:
    """Deletes entries older than AUDIT_RETENTION_DAYS; returns how many. 0 days deletes none.

    It works in portions, so that no writer waits long, and calls `beat(total)` after each.
    """
    if not settings.AUDIT_RETENTION_DAYS:
        return 0
    oldest = timezone.now() - timedelta(days=settings.AUDIT_RETENTION_DAYS)
    total = portions.delete(_changing().filter(at__lt=oldest).order_by("at"), PRUNE_ROWS, beat)
    if total:
        logger.info("audit pruned", extra={"rows": total})
    return total


def visible_entries(principal: Principal) -> tuple[UnchangingRows, UnchangingRows]:
    """The entries that the caller may see: those of the project, and those of the whole instance.
    Scope `read`.

    An administrator sees the project's, an instance owner the instance's, and everybody their own.
    """
    principal.require(Scope.READ)
    is_admin = Scope.ADMIN in principal.scopes and principal.entity_limit is None
    in_project = AuditEntry.objects.filter(project_id=principal.project.id)
    of_instance = AuditEntry.objects.filter(project=None)
    if not is_admin:
        in_project = _own(in_project, principal)
    if not (is_admin and principal.is_owner):
        of_instance = _own(of_instance, principal)
    return in_project, of_instance


def _own(rows: UnchangingRows, principal: Principal) -> UnchangingRows:
    if principal.account_id is None or principal.entity_limit is not None:
        return rows.none()
    return rows.filter(account_id=principal.account_id)
