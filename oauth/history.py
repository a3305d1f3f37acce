"""Audit entries about apps."""

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from core.principal import Actor
from oauth.models import AppGrant


def record(action: AuditAction, grant: AppGrant, actor: Actor, *, address: str = "") -> None:
    """An entry about what a person granted an app, in the caller's transaction."""
    app = grant.application
    audit.record(
        action,
        actor=actor,
        project_id=grant.project_id,
        target=AuditTarget("app", grant.id, app.name or app.client_id),
        details={
            "owner": grant.account.name or grant.account.email,
            "scopes": grant.scopes.split(),
            "client_id": app.client_id,
        },
        address=address,
    )
