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

    `X-API-Key` comes first, because only clients of this server send it, while a proxy may have set
    its own `Authorization`, or passed on another server's.
    """
    credentials = []
    key = headers.get("X-API-Key")
    if key is not None:
        credentials.append(SentCredential(key.strip(), API_KEY))
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() in _SCHEMES and (not credentials or credentials[0].value != value.strip()):
        credentials.append(SentCredential(value.strip(), scheme.lower()))
    return credentials


def is_static_key(value: str) -> bool:
    """Whether it is a static key from the environment, which can be checked without a database."""
    return any(
        key and hmac.compare_digest(value.encode(), key.encode())
        for key in (settings.ADMIN_API_KEY, settings.MEM0_API_KEY)
    )
