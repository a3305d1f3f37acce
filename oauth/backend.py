"""Hands Django's requests to oauthlib, with what the validator needs to know of them."""

import re
from typing import Any, Final

from django.http import HttpRequest, QueryDict
from oauth2_provider.exceptions import FatalClientError, OAuthToolkitError
from oauthlib.oauth2.rfc6749 import errors

from core.http.middleware import client_address
from core.http.public import base_url
from oauth.library import OAuthLibCore

# Names among oauthlib's headers: where this server is reached, and from where it is called.
BASE: Final = "mem0dash.base"
ADDRESS: Final = "mem0dash.address"
CLIENT: Final = "mem0dash.client"
REQUEST_ID: Final = "mem0dash.request_id"
FOREIGN: Final = "This server issues tokens for its own /mcp alone."
# A SHA-256 in base64url, RFC 7636 section 4.2.
_S256: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class Backend(OAuthLibCore):
    """settings.OAUTH2_PROVIDER names it."""

    def extract_headers(self, request: HttpRequest) -> dict[str, Any]:
        headers: dict[str, Any] = super().extract_headers(request)
        headers[BASE] = base_url(request)
        headers[ADDRESS] = client_address(request)
        headers[CLIENT] = request.headers.get("User-Agent", "")[:200]
        headers[REQUEST_ID] = str(getattr(request, "request_id", ""))
        return headers

    def validate_authorization_request(self, request: HttpRequest) -> tuple[list[str], Any]:
        """FatalClientError for what is shown to the person; any other OAuthToolkitError goes back
        to the client."""
        if not is_readable(request.GET):
            raise FatalClientError(error=errors.InvalidRequestError(description="unreadable"))
        try:
            found = super().validate_authorization_request(request)
        except ValueError as error:
            unreadable = errors.InvalidRequestError(description="unreadable")
            raise FatalClientError(error=unreadable) from error
        scopes, credentials = found
        challenge = credentials.get("code_challenge") or ""
        method = credentials.get("code_challenge_method")
        if method != "S256" or not _S256.fullmatch(challenge):
            refused = errors.InvalidRequestError(
                description="PKCE with S256 is required.", state=credentials.get("state")
            )
            raise OAuthToolkitError(error=refused, redirect_uri=credentials["redirect_uri"])
        asked = request.GET.getlist("resource")
        if not all(is_here(uri, base_url(request)) for uri in asked):
            foreign = errors.CustomOAuth2Error(
                error="invalid_target", description=FOREIGN, state=credentials.get("state")
            )
            raise OAuthToolkitError(error=foreign, redirect_uri=credentials["redirect_uri"])
        return scopes, credentials


def is_here(resource: str, base: str) -> bool:
    """Whether tokens for this resource are for /mcp of the server at `base` (RFC 8707)."""
    return resource.rstrip("/") in {base, f"{base}/mcp"}


def is_readable(fields: QueryDict) -> bool:
    """Whether these fields can be looked for in every database, and come once (RFC 6749 section
    3.1), all but `resource`."""
    return all(
        (len(values) == 1 or name == "resource") and not any("\0" in value for value in values)
        for name, values in fields.lists()
    )
