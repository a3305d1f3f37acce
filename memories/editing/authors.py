"""Who asked for a change, as rows and the audit keep it."""

from collections.abc import Mapping
from typing import Any

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from accounts.models import Account
from accounts.queries import project_view
from core.principal import Actor, Principal
from memories.models.bulk import Operation


def plain_limit(principal: Principal) -> dict[str, list[str]] | None:
    """The caller's entity limit for JSON; None for none."""
    if principal.entity_limit is None:
        return None
    return {name: sorted(ids) for name, ids in principal.entity_limit.items()}


def principal_of_change(operation: Operation) -> Principal:
    """Who asked for it, as the history is to name them."""
    limit = operation.entity_limit
    return Principal.standing_in(
        operation.actor,
        project_view(operation.project),
        entity_limit=None if limit is None else {k: frozenset(v) for k, v in limit.items()},
    )


def principal_of_undo(operation: Operation) -> Principal:
    """Who asked to take it back."""
    by = Actor.of_plain(operation.undone_by)
    return Principal.standing_in(by, project_view(operation.project))


def reviewer_of(principal: Principal) -> str:
    """Who reviewed, as the memory tells it: the account's name, or how the caller came in."""
    if principal.account_id is None:
        return principal.via
    account = Account.objects.filter(id=principal.account_id).first()
    if account is None:
        return principal.via
    return (account.name or account.email)[:255]


def record(action: AuditAction, principal: Principal, details: Mapping[str, Any]) -> None:
    """What was done to the project, as far as the caller's limit reaches."""
    limit = principal.entity_limit
    within = {"only": {name: sorted(ids) for name, ids in limit.items()}} if limit else {}
    slug = principal.project.slug
    audit.record(
        action,
        actor=principal.actor,
        project_id=principal.project.id,
        target=AuditTarget("project", principal.project.id, slug),
        details={**details, **within},
    )
