"""Turns the credential of a request into a Principal."""

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.models import Account, Project
from accounts.queries import project_named, project_view, scopes_in
from accounts.sessions import account_of_access_token
from accounts.throttle import RateLimitedError
from apikeys import usage
from apikeys.services import PREFIX, find_api_key, principal_of
from core.errors import InvalidCredentialError, NotFoundError
from core.http import credentials
from core.http.credentials import SentCredential
from core.http.middleware import client_address
from core.principal import ALL_SCOPES, Principal, Via

if TYPE_CHECKING:
    # rest_framework.views reads its defaults, and so this module, while it is imported.
    from rest_framework.views import APIView

NO_PROJECT = "Project not found."
INVALID_KEY = "Invalid API key."


class CredentialAuthentication(BaseAuthentication):
    """`X-API-Key: k`, `Authorization: Token k` and `Authorization: Bearer k` all carry a key.

    The value tells the kind of credential: a static key, an API key or a session token (Bearer
    only). If both headers are sent, the first valid one counts: X-API-Key, else Authorization.
    Raises InvalidCredentialError when none holds; without any credential the request stays
    anonymous, unless AUTH_DISABLED makes everybody the owner.
    """

    def authenticate(self, request: Request) -> tuple[Any, Principal] | None:
        found = credentials.read_credentials(request.headers)
        if found:
            principal = _first_that_holds(request, found)
        elif settings.AUTH_DISABLED:
            _note_auth_type(request, "disabled")
            principal = _instance_principal(request, "auth_disabled")
        else:
            return None
        request._request.principal = principal  # type: ignore[attr-defined]  # for the logs
        return None, principal

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HasPrincipal(BasePermission):
    """Requires a credential. The services decide what it may do."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return isinstance(request.auth, Principal)


def _first_that_holds(request: Request, found: list[SentCredential]) -> Principal:
    """The principal of the first valid credential; raises the error of the last if none is
    valid."""
    limited = None
    for credential in found[:-1]:
        try:
            return _identify(request, credential)
        except RateLimitedError as error:
            limited = error
        except InvalidCredentialError:
            pass  # The other header may have a valid one.
    try:
        return _identify(request, found[-1])
    except InvalidCredentialError as error:
        # The earlier one may be valid: it could not be checked just now.
        raise limited or error from None


def _identify(request: Request, credential: SentCredential) -> Principal:
    value = credential.value
    if credentials.is_static_key(value):
        _note_auth_type(request, "admin_api_key")
        return _instance_principal(request, "admin_api_key")
    if credential.scheme == "bearer" and not value.startswith(PREFIX):
        _note_auth_type(request, "bearer")
        return _session_principal(request, value)
    _note_auth_type(request, "api_key")
    row = find_api_key(value, address=client_address(request._request))
    if row is None or row.revoked_at is not None:
        raise InvalidCredentialError(INVALID_KEY)
    if row.expires_at is not None and row.expires_at <= timezone.now():
        raise InvalidCredentialError("API key has expired.")
    if not row.owner_is_active:
        raise InvalidCredentialError("API key owner not found.")
    usage.note_use(row.id, row.last_used_at)
    return principal_of(row, request_id=_request_id(request), client=_client(request))


def _instance_principal(request: Request, via: Via) -> Principal:
    """The instance owner in project Default, or in the one that `X-Project` names."""
    project = project_named(_wanted_project(request))
    if project is None:
        raise NotFoundError(NO_PROJECT)
    return Principal(
        project=project_view(project),
        scopes=ALL_SCOPES,
        via=via,
        is_owner=True,
        request_id=_request_id(request),
        client=_client(request),
    )


def _session_principal(request: Request, token: str) -> Principal:
    """Whoever is signed in, in project Default or in the one of theirs that `X-Project` names."""
    if token.count(".") != 2:
        raise InvalidCredentialError("Invalid or expired token.")
    account = account_of_access_token(token)
    project = _project_of(account, _wanted_project(request))
    return Principal(
        project=project_view(project),
        scopes=scopes_in(account, project.id),
        via="session",
        account_id=account.id,
        is_owner=account.is_owner,
        request_id=_request_id(request),
        client=_client(request),
    )


def _project_of(account: Account, wanted: str) -> Project:
    """The project that the session is in. One that the account is no member of does not exist for
    it, unless it named none: then it is in Default without any right there, as its own account's
    routes need none."""
    project = project_named(wanted)
    if project is None or (wanted and not scopes_in(account, project.id)):
        raise NotFoundError(NO_PROJECT)
    return project


def _wanted_project(request: Request) -> str:
    return request.headers.get("X-Project", "").strip()


def _note_auth_type(request: Request, auth_type: str) -> None:
    """For the request log, before the credential is checked."""
    request._request.auth_type = auth_type  # type: ignore[attr-defined]  # read by the middleware


def _request_id(request: Request) -> str:
    return str(getattr(request._request, "request_id", ""))


def _client(request: Request) -> str:
    """The client's name for the audit: its own header, else its User-Agent."""
    name = request.headers.get("X-Mem0-Client") or request.headers.get("User-Agent", "")
    return name[:200]
