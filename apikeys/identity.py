"""Who sent a request: the Principal behind a static key, an API key or a session token.

Every surface asks here, with Django's own request: REST through apikeys.authentication, MCP through
the composition root, which knows the tokens of OAuth as well.
"""

from collections.abc import Callable, Sequence

from django.http import HttpRequest
from django.utils import timezone

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

NO_PROJECT = "Project not found."
INVALID_KEY = "Invalid API key."


def first_that_holds(
    request: HttpRequest,
    found: Sequence[SentCredential],
    identify: Callable[[HttpRequest, SentCredential], Principal],
) -> Principal:
    """The principal of the first valid credential, as `identify` tells; raises the error of the
    last if none is valid."""
    limited = None
    for credential in found[:-1]:
        try:
            return identify(request, credential)
        except RateLimitedError as error:
            limited = error
        except InvalidCredentialError:
            pass  # The other header may have a valid one.
    try:
        return identify(request, found[-1])
    except InvalidCredentialError as error:
        # The earlier one may be valid: it could not be checked just now.
        raise limited or error from None


def is_key(credential: SentCredential) -> bool:
    """Whether it is an API key or a static key, valid or not, rather than a bearer's token."""
    value = credential.value
    return (
        credential.scheme != "bearer"
        or value.startswith(PREFIX)
        or credentials.is_static_key(value)
    )


def principal_of_key(request: HttpRequest, value: str) -> Principal:
    """The principal of a static key or an API key; InvalidCredentialError, and RateLimitedError as
    `find_api_key` says."""
    if credentials.is_static_key(value):
        note_auth_type(request, "admin_api_key")
        return instance_principal(request, "admin_api_key")
    note_auth_type(request, "api_key")
    row = find_api_key(value, address=client_address(request))
    if row is None or row.revoked_at is not None:
        raise InvalidCredentialError(INVALID_KEY)
    if row.expires_at is not None and row.expires_at <= timezone.now():
        raise InvalidCredentialError("API key has expired.")
    if not row.owner_is_active:
        raise InvalidCredentialError("API key owner not found.")
    usage.note_use(row.id, row.last_used_at)
    return principal_of(row, request_id=request_id_of(request), client=client_of(request))


def principal_of_session(request: HttpRequest, token: str) -> Principal:
    """Whoever is signed in, in project Default or in the one of theirs that `X-Project` names."""
    note_auth_type(request, "bearer")
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
        request_id=request_id_of(request),
        client=client_of(request),
    )


def instance_principal(request: HttpRequest, via: Via) -> Principal:
    """The instance owner in project Default, or in the one that `X-Project` names."""
    project = project_named(_wanted_project(request))
    if project is None:
        raise NotFoundError(NO_PROJECT)
    return Principal(
        project=project_view(project),
        scopes=ALL_SCOPES,
        via=via,
        is_owner=True,
        request_id=request_id_of(request),
        client=client_of(request),
    )


def note_auth_type(request: HttpRequest, auth_type: str) -> None:
    """For the request log, before the credential is checked."""
    request.auth_type = auth_type  # type: ignore[attr-defined]  # read by the middleware


def request_id_of(request: HttpRequest) -> str:
    """The id that the request was given on its way in."""
    return str(getattr(request, "request_id", ""))


def client_of(request: HttpRequest) -> str:
    """The client's name for the audit: its own header, else its User-Agent."""
    name = request.headers.get("X-Mem0-Client") or request.headers.get("User-Agent", "")
    return name[:200]


def _project_of(account: Account, wanted: str) -> Project:
    """The project that the session is in. One that the account is no member of does not exist for
    it, unless it named none: then it is in Default without any right there, as its own account's
    routes need none."""
    project = project_named(wanted)
    if project is None or (wanted and not scopes_in(account, project.id)):
        raise NotFoundError(NO_PROJECT)
    return project


def _wanted_project(request: HttpRequest) -> str:
    return request.headers.get("X-Project", "").strip()
