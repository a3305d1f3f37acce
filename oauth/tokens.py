"""How tokens and secrets look, and what is stored of them."""

import hashlib
import re
import secrets
from typing import Any, Final

# For secret scanners as well: docs/connectors.md publishes both. Like an API key, a token has 256
# random bits, so that its SHA-256 can be stored without a slow hash.
ACCESS: Final = "m0at_"
REFRESH: Final = "m0rt_"
_ACCESS_PATTERN: Final = re.compile(rf"{ACCESS}[A-Za-z0-9_-]{{43}}")


def make_access_token(request: Any) -> str:
    """The library's ACCESS_TOKEN_GENERATOR."""
    return ACCESS + secrets.token_urlsafe(32)


def make_refresh_token(request: Any) -> str:
    """The library's REFRESH_TOKEN_GENERATOR."""
    return REFRESH + secrets.token_urlsafe(32)


def is_access_token(text: str) -> bool:
    """Whether this can be one of our access tokens; anything else needs no query."""
    return _ACCESS_PATTERN.fullmatch(text) is not None


def digest_of(secret: str) -> str:
    """SHA-256 of a token or a client's secret, 64 hex characters."""
    return hashlib.sha256(secret.encode()).hexdigest()
