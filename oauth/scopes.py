"""The scopes as clients write them, and what they allow here."""

from collections.abc import Iterable
from typing import Final

from core.principal import Scope

# In the order in which documents list them. Administrators' rights are no app's.
WIRE: Final = {
    "memory:read": Scope.READ,
    "memory:write": Scope.WRITE,
    "memory:review": Scope.REVIEW,
}
# What an app gets that asks for nothing in particular.
DEFAULT: Final = ("memory:read", "memory:write")
# As mem0-server calls them.
_ALIASES: Final = {scope.value: name for name, scope in WIRE.items()}


def known(asked: Iterable[str]) -> list[str]:
    """Those of the asked scopes that exist, under the names of WIRE and in its order.

    Clients add `offline_access` or `openid` by themselves, so what is unknown is left out (RFC 6749
    section 3.3).
    """
    names = {_ALIASES.get(name, name) for name in asked}
    return [name for name in WIRE if name in names]


def allowed(names: Iterable[str]) -> frozenset[Scope]:
    """What these scopes allow."""
    return frozenset(WIRE[name] for name in names if name in WIRE)


def wire(scopes: Iterable[Scope]) -> list[str]:
    """These scopes as clients write them."""
    held = set(scopes)
    return [name for name, scope in WIRE.items() if scope in held]
