"""Who calls /mcp: the one place that knows API keys and the tokens of OAuth."""

from typing import Final

from django.conf import settings
from django.http import HttpRequest

from apikeys import identity
from core.errors import InvalidCredentialError
from core.http import credentials
from core.http.credentials import SentCredential
from core.http.middleware import client_address
from core.principal import Principal
from oauth import service as oauth
from oauth.tokens import is_access_token

NO_SUCH: Final = "The access token is invalid or has expired."


class EndedTokenError(InvalidCredentialError):
    """An access token that has expired, was revoked, or never was."""


def identify(request: HttpRequest) -> Principal:
    """The caller. Static keys, API keys (as `Bearer`, `Token` or `X-API-Key`) and access tokens of
    OAuth hold here, sessions do not.

    InvalidCredentialError where none holds; without any, AUTH_DISABLED makes everybody the owner.
    """
    found = credentials.read_credentials(request.headers)
    if found:
        return identity.first_that_holds(request, found, _identify)
    if not settings.AUTH_DISABLED:
        raise InvalidCredentialError(NO_SUCH)
    identity.note_auth_type(request, "disabled")
    return identity.instance_principal(request, "auth_disabled")


def _identify(request: HttpRequest, credential: SentCredential) -> Principal:
    if identity.is_key(credential):
        return identity.principal_of_key(request, credential.value)
    identity.note_auth_type(request, "oauth")
    principal = oauth.principal_of(
        credential.value,
        request_id=identity.request_id_of(request),
        client=identity.client_of(request),
        address=client_address(request),
    )
    if principal is None:
        ended = is_access_token(credential.value)
        raise EndedTokenError(NO_SUCH) if ended else InvalidCredentialError(NO_SUCH)
    return principal


def is_same(now: Principal, then: Principal) -> bool:
    """Whether a caller may do and see what it could."""
    return (now.account_id, now.project.id, now.scopes, now.entity_limit) == (
        then.account_id,
        then.project.id,
        then.scopes,
        then.entity_limit,
    )
