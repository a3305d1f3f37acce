"""Reads of the request log."""

from typing import Final

from core.principal import Principal
from operations.models import RequestLog

# As in mem0's own server, which does not list requests of sessions.
SHOWN_AUTH_TYPES: Final = ("api_key", "admin_api_key")


def recent_requests(principal: Principal, *, limit: int) -> list[RequestLog]:
    """The newest requests with a key in the caller's project, at most `limit`.

    Paths contain entity ids, so a key with an entity limit sees only its own requests.
    """
    rows = RequestLog.objects.filter(
        project_id=principal.project.id, auth_type__in=SHOWN_AUTH_TYPES
    )
    if principal.entity_limit is not None:
        rows = rows.filter(key_prefix=principal.key_prefix)
    return list(rows.order_by("-created_at", "-id")[:limit])
