"""Who requested a change, as rows and the audit store it."""

from collections.abc import Mapping
from typing import Any

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from accounts.models import Account
from accounts.queries import project_view
from core.principal import Actor, Principal
from memories.models.bulk import Operation


def plain_limit(principal: Principal) -> dict[str, list[str]] | None:
    """The caller's entity limit for JSON; None if there is no limit."""
    if principal.entity_limit is None:
        return None
    return {name: sorted(ids) for name, ids in principal.entity_limit.items()}


def principal_of_change(operation: Operation) -> Principal:
    """The principal who requested the bulk change, for the history."""
    limit = operation.entity_limit
    return Principal.standing_in(
        operation.actor,
        project_view(operation.project),
        entity_limit=None if limit is None else {k: frozenset(v) for k, v in limit.items()},
    )


def principal_of_undo(operation: Operation) -> Principal:
    """The principal who requested the undo."""
    by = Actor.of_plain(operation.undone_by)
    return Principal.standing_in(by, project_view(operation.project))


def reviewer_of(principal: Principal) -> str:
    """The reviewer's name for the memory: the account's name, else how the caller signed in."""
    if principal.account_id is None:
        return principal.via
    account = Account.objects.filter(id=principal.account_id).first()
    if account is None:
        return principal.via
    return (account.name or account.email)[:255]


def record(action: AuditAction, principal: Principal, details: Mapping[str, Any]) -> None:
    """Records an action on the project, with the caller's entity limit."""
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
