"""How the request log says who called."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from django import template

from operations.models import RequestLog
from operations.traffic import Caller

register = template.Library()

_WAYS: Final = {
    "admin_api_key": "Admin key",
    "oauth": "A connected app",
    "bearer": "Signed in",
    "disabled": "No sign-in needed",
}


@register.filter
def key_value(caller: RequestLog | Caller) -> str:
    """What the filter "key" is set to for this caller."""
    return caller.key_prefix or caller.auth_type


@register.filter
def key_words(caller: RequestLog | Caller, labels: Mapping[str, str]) -> str:
    """What the key is called, else how it begins; the way in for callers without a key."""
    if caller.key_prefix:
        return labels.get(caller.key_prefix) or f"{caller.key_prefix}…"
    return _WAYS.get(caller.auth_type, "A key")


@register.filter
def name_of(names: Mapping[UUID, str], account_id: UUID | None) -> str:
    return names.get(account_id, "") if account_id else ""


@register.filter
def status_look(status: int) -> str:
    """The colour that a status is told in."""
    if status >= 500:
        return "bad"
    return "warn" if status >= 400 else "ok"
