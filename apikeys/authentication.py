"""Turns the credential of a REST request into a Principal."""

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from apikeys import identity
from core.http import credentials
from core.http.credentials import SentCredential
from core.principal import Principal

if TYPE_CHECKING:
    # rest_framework.views reads its defaults, and so this module, while it is imported.
    from rest_framework.views import APIView


class CredentialAuthentication(BaseAuthentication):
    """`X-API-Key: k`, `Authorization: Token k` and `Authorization: Bearer k` all carry a key.

    The value tells the kind of credential: a static key, an API key or a session token (Bearer
    only). If both headers are sent, the first valid one counts: X-API-Key, else Authorization.
    Raises InvalidCredentialError when none holds; without any credential the request stays
    anonymous, unless AUTH_DISABLED makes everybody the owner.
    """

    def authenticate(self, request: Request) -> tuple[Any, Principal] | None:
        sent = request._request
        found = credentials.read_credentials(sent.headers)
        if found:
            principal = identity.first_that_holds(sent, found, _identify)
        elif settings.AUTH_DISABLED:
            identity.note_auth_type(sent, "disabled")
            principal = identity.instance_principal(sent, "auth_disabled")
        else:
            return None
        sent.principal = principal  # type: ignore[attr-defined]  # for the logs
        return None, principal

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HasPrincipal(BasePermission):
    """Requires a credential. The services decide what it may do."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return isinstance(request.auth, Principal)


def _identify(request: HttpRequest, credential: SentCredential) -> Principal:
    if identity.is_key(credential):
        return identity.principal_of_key(request, credential.value)
    return identity.principal_of_session(request, credential.value)
