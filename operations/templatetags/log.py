"""How the request log names callers."""

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
    """The value of the filter "key" for this caller."""
    return caller.key_prefix or caller.auth_type


@register.filter
def key_words(caller: RequestLog | Caller, labels: Mapping[str, str]) -> str:
    """The key's label, else its prefix; the kind of credential for callers without a key."""
    if caller.key_prefix:
        return labels.get(caller.key_prefix) or f"{caller.key_prefix}…"
    return _WAYS.get(caller.auth_type, "A key")


@register.filter
def name_of(names: Mapping[UUID, str], account_id: UUID | None) -> str:
    return names.get(account_id, "") if account_id else ""


@register.filter
def status_look(status: int) -> str:
    """The colour of a status."""
    if status >= 500:
        return "bad"
    return "warn" if status >= 400 else "ok"
