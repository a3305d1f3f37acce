"""Audit entries about keys."""

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from apikeys.models import ApiKey
from core.principal import Actor


def record(action: AuditAction, row: ApiKey, actor: Actor) -> None:
    """Records an entry about this key in the caller's transaction, with its scopes, its owner and
    its prefix, which is not secret."""
    details = {
        "prefix": row.prefix,
        "owner": row.owner.name or row.owner.email,
        "scopes": row.scopes,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "entity_limit": row.entity_limit,
    }
    audit.record(
        action,
        actor=actor,
        project_id=row.project_id,
        target=AuditTarget("key", row.id, row.label),
        details=details,
    )
