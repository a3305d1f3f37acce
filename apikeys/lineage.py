"""Which key made which. Revoking a key also revokes the keys that it made; a key cannot revoke
others."""

from typing import Any, Final
from uuid import UUID

from django.db import connection
from django.utils import timezone

from accounts.audit import AuditAction
from apikeys import history
from apikeys.models import ApiKey
from core.principal import Actor

# A revoked key has no live descendants, so the descent stops there.
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
    """The live keys among this key and its descendants."""
    return _ids(_LIVE_BELOW, key_id)


def is_below(key_id: UUID, maker_id: UUID) -> bool:
    """Whether `key_id` is `maker_id` or one of its descendants."""
    return maker_id in _ids(_ABOVE, key_id)


def revoke_with_descendants(key_id: UUID, *, actor: Actor) -> int:
    """Revokes the key and its descendants, each with an audit entry; how many. The caller's
    transaction holds the owner's lock, so that none of them can make another key meanwhile."""
    rows = ApiKey.objects.filter(id__in=list_live_below(key_id), revoked_at=None)
    ended = list(rows.select_related("owner").order_by("created_at", "id"))
    rows.update(revoked_at=timezone.now())
    for row in ended:
        history.record(AuditAction.KEY_REVOKED, row, actor)
    return len(ended)


def _ids(statement: str, key_id: UUID) -> list[UUID]:
    pk: Any = ApiKey._meta.pk
    db_id = pk.get_db_prep_value(key_id, connection)
    return [row.id for row in ApiKey.objects.raw(statement, [db_id])]
