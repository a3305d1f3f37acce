"""Apps that register themselves (RFC 7591)."""

import secrets
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError

from oauth import limits
from oauth.metadata import GRANT_TYPES, SECRET_METHODS, MetadataError, read_metadata
from oauth.models import Application
from oauth.scopes import WIRE
from oauth.tokens import digest_of


def register(said: Mapping[str, Any], *, address: str) -> dict[str, Any]:
    """Registers the client that the metadata describes; the answer of RFC 7591 section 3.2.1, with
    the secret of a client that has one.

    MetadataError for what cannot be registered, RateLimitedError for too many.
    """
    limits.take_registration(address)
    client = read_metadata(said, default_method="client_secret_basic")
    secret = secrets.token_urlsafe(32) if client.method in SECRET_METHODS else ""
    app = Application(
        client_id=secrets.token_hex(16),
        client_secret=digest_of(secret) if secret else "",
        hash_client_secret=False,
        registration_source=Application.RegistrationSource.DCR,
        registered_from=address[:45],
        **client.columns,
    )
    try:
        app.full_clean()
    except ValidationError as error:
        wrong = "redirect_uri" if "redirect_uris" in error.message_dict else "client_metadata"
        raise MetadataError(f"invalid_{wrong}", " ".join(error.messages)) from error
    app.save()
    answer: dict[str, Any] = {
        "client_id": app.client_id,
        "client_id_issued_at": int(app.created.timestamp()),
        "redirect_uris": list(client.redirect_uris),
        "grant_types": list(GRANT_TYPES),
        "response_types": ["code"],
        "token_endpoint_auth_method": client.method,
        "scope": " ".join(WIRE),
    }
    if secret:
        answer |= {"client_secret": secret, "client_secret_expires_at": 0}
    # Clients that check the answer against a schema take no null.
    kind = said.get("application_type")
    optional = {
        "client_name": app.name,
        "client_uri": app.client_uri,
        "jwks_uri": app.client_jwks_uri,
        "application_type": kind if kind in ("native", "web") else "",
    }
    return answer | {name: value for name, value in optional.items() if value}
