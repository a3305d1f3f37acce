"""Which key made which. Revoking a key revokes those that it made; a key can revoke no others."""

from typing import Any, Final
from uuid import UUID

from django.db import connection
from django.utils import timezone

from accounts.audit import AuditAction
from apikeys import history
from apikeys.models import ApiKey
from core.principal import Actor

# A revoked key has no live ones below it, so the way down stops there.
_LIVE_BELOW: Final = """
WITH RECURSIVE tree (id) AS (
    SELECT id FROM apikeys_apikey WHERE id = %s AND revoked_at IS NULL
    UNION
    SELECT k.id FROM apikeys_apikey k JOIN tree ON k.made_by = tree.id
    WHERE k.revoked_at IS NULL
)
SELECT id FROM tree
"""
_ABOVE: Final = """
WITH RECURSIVE line (id, made_by) AS (
    SELECT id, made_by FROM apikeys_apikey WHERE id = %s
    UNION
    SELECT k.id, k.made_by FROM apikeys_apikey k JOIN line ON k.id = line.made_by
)
SELECT id FROM line
"""


def list_live_below(key_id: UUID) -> list[UUID]:
    """The key and all that it made, directly or through others, as far as they are not revoked."""
    return _ids(_LIVE_BELOW, key_id)


def is_below(key_id: UUID, maker_id: UUID) -> bool:
    """Whether `key_id` is `maker_id`, or was made by it, directly or through others."""
    return maker_id in _ids(_ABOVE, key_id)


def revoke_with_descendants(key_id: UUID, *, actor: Actor) -> int:
    """Revokes the key and all that it made, each with an entry of the audit; how many. For a
    transaction that holds the lock of their owner: otherwise one of them may make another one
    meanwhile."""
    rows = ApiKey.objects.filter(id__in=list_live_below(key_id), revoked_at=None)
    ended = list(rows.select_related("owner").order_by("created_at", "id"))
    rows.update(revoked_at=timezone.now())
    for row in ended:
        history.record(AuditAction.KEY_REVOKED, row, actor)
    return len(ended)


def _ids(statement: str, key_id: UUID) -> list[UUID]:
    pk: Any = ApiKey._meta.pk
    wanted = pk.get_db_prep_value(key_id, connection)
    return [row.id for row in ApiKey.objects.raw(statement, [wanted])]
