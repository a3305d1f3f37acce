"""What a client says about itself (RFC 7591 section 2), as far as this server wants to know.

Real clients list grants and redirect URIs for every server they know. What does not fit here is
left out instead of refused, as RFC 7591 section 3.2.1 allows.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import validate_host

from oauth import redirects
from oauth.labels import clean_label

logger = logging.getLogger(__name__)

GRANT_TYPES: Final = ("authorization_code", "refresh_token")
SECRET_METHODS: Final = ("client_secret_basic", "client_secret_post")
KEY_METHOD: Final = "private_key_jwt"
METHODS: Final = ("none", *SECRET_METHODS, KEY_METHOD)
LONGEST: Final = 500
JWKS_LETTERS: Final = 16 * 1024


class MetadataError(Exception):
    """Why this client cannot be registered; `error` is a word of RFC 7591 section 3.2.2."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error, self.description = error, description


@dataclass(frozen=True, slots=True)
class ClientMetadata:
    """A client as it is registered."""

    name: str
    redirect_uris: tuple[str, ...]
    method: str
    client_uri: str
    jwks: str
    jwks_uri: str

    @property
    def columns(self) -> dict[str, str]:
        """The same as columns of Application."""
        return {
            "name": self.name,
            "redirect_uris": " ".join(self.redirect_uris),
            "token_endpoint_auth_method": self.method,
            "client_uri": self.client_uri,
            "client_jwks": self.jwks,
            "client_jwks_uri": self.jwks_uri,
            "client_type": "public" if self.method == "none" else "confidential",
            "authorization_grant_type": "authorization-code",
        }


def read_metadata(said: Mapping[str, Any], *, default_method: str) -> ClientMetadata:
    """The client that the metadata describes; MetadataError."""
    grants = said.get("grant_types") or ["authorization_code"]
    if not isinstance(grants, list) or "authorization_code" not in grants:
        raise MetadataError("invalid_client_metadata", "grant_types lacks authorization_code.")
    method = _method(said, default_method)
    jwks, jwks_uri = _keys(said)
    if method == KEY_METHOD and not (jwks or jwks_uri):
        raise MetadataError("invalid_client_metadata", "private_key_jwt needs jwks or jwks_uri.")
    return ClientMetadata(
        name=clean_label(_text(said, "client_name")),
        redirect_uris=_redirect_uris(said),
        method=method,
        client_uri=_link(said, "client_uri"),
        jwks=jwks,
        jwks_uri=jwks_uri,
    )


def _method(said: Mapping[str, Any], default: str) -> str:
    method = said.get("token_endpoint_auth_method") or default
    if method not in METHODS:
        raise MetadataError(
            "invalid_client_metadata",
            f"token_endpoint_auth_method must be one of {', '.join(METHODS)}.",
        )
    others = said.get("token_endpoint_auth_methods_supported")
    if method == KEY_METHOD and isinstance(others, list) and "none" in others:
        return "none"  # then an assertion is checked where one comes
    return str(method)


def _redirect_uris(said: Mapping[str, Any]) -> tuple[str, ...]:
    uris = said.get("redirect_uris")
    if not isinstance(uris, list) or not uris or not all(isinstance(uri, str) for uri in uris):
        raise MetadataError("invalid_redirect_uri", "redirect_uris must list at least one URI.")
    kept = tuple(uri for uri in uris if redirects.may_register(uri))[: redirects.MOST]
    if len(kept) < len(uris):
        _log_rejected([uri for uri in uris if uri not in kept])
    if not kept:
        allowed = " It may also be missing in OAUTH_ALLOWED_REDIRECT_URIS of this server."
        listed = bool(settings.OAUTH_ALLOWED_REDIRECT_URIS)
        raise MetadataError("invalid_redirect_uri", redirects.REFUSED + (allowed if listed else ""))
    return kept


def _log_rejected(uris: list[str]) -> None:
    """Tells the operator which entry the list lacks."""
    logger.warning(
        "redirect URIs were rejected",
        extra={
            "rejected": [uri[: redirects.LONGEST] for uri in uris[:5]],
            "allowed": settings.OAUTH_ALLOWED_REDIRECT_URIS or "every URI that OAuth allows",
        },
    )


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


def _link(said: Mapping[str, Any], name: str) -> str:
    """A link of the client's; "" for anything that is none."""
    url = _text(said, name)
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    is_link = parts.scheme in {"http", "https"} and bool(parts.hostname)
    return url if is_link and url.isascii() and url.isprintable() and len(url) <= LONGEST else ""


def _keys(said: Mapping[str, Any]) -> tuple[str, str]:
    """The client's public keys, and where they are instead."""
    uri = _link(said, "jwks_uri")
    if uri:
        if not may_fetch(uri):
            raise MetadataError("invalid_client_metadata", "This server fetches no such jwks_uri.")
        return "", uri
    jwks = said.get("jwks")
    if jwks is None:
        return "", ""
    written = json.dumps(jwks)
    if not isinstance(jwks, dict) or len(written) > JWKS_LETTERS:
        raise MetadataError("invalid_client_metadata", "jwks must be a small JSON Web Key Set.")
    return written, ""


def may_fetch(url: str) -> bool:
    """Whether this server fetches what clients publish at `url`; how it does, is in
    oauth.documents."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if not settings.OAUTH_CLIENT_DOCUMENTS or parts.scheme != "https" or not parts.hostname:
        return False
    hosts = settings.OAUTH_CLIENT_DOCUMENT_HOSTS
    return not hosts or validate_host(parts.hostname, hosts)
