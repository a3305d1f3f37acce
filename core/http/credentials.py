"""The credentials in a request, and the static keys in the environment."""

import hmac
from collections.abc import Mapping
from typing import Final, NamedTuple

from django.conf import settings

API_KEY: Final = "x-api-key"
_SCHEMES: Final = frozenset({"bearer", "token"})


class SentCredential(NamedTuple):
    """A credential as it was sent; `scheme` is API_KEY, "bearer" or "token"."""

    value: str
    scheme: str


def read_credentials(headers: Mapping[str, str]) -> list[SentCredential]:
    """The credentials of a request, in the order in which they are tried; nearly always one.

    `X-API-Key` comes first: nothing but a client of this server sends it, while a proxy on the way
    may have written its own `Authorization`, or have left another server's there.
    """
    found = []
    key = headers.get("X-API-Key")
    if key is not None:
        found.append(SentCredential(key.strip(), API_KEY))
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() in _SCHEMES and (not found or found[0].value != value.strip()):
        found.append(SentCredential(value.strip(), scheme.lower()))
    return found


def is_static_key(value: str) -> bool:
    """Whether it is a static key of the environment; no database is needed to check it."""
    return any(
        key and hmac.compare_digest(value.encode(), key.encode())
        for key in (settings.ADMIN_API_KEY, settings.MEM0_API_KEY)
    )
