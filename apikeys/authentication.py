"""Turns the credential of a request into a Principal."""

import contextlib
import hmac
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.models import Project
from accounts.queries import project_view
from accounts.services import DEFAULT_PROJECT
from apikeys.services import PREFIX, find_api_key, note_use, principal_of
from mem0dash.errors import InvalidCredentialError, NotFoundError
from mem0dash.principal import ALL_SCOPES, Principal, Via

if TYPE_CHECKING:
    # rest_framework.views reads its defaults, and so this module, while it is imported.
    from rest_framework.views import APIView


class CredentialAuthentication(BaseAuthentication):
    """`X-API-Key: k`, `Authorization: Token k` and `Authorization: Bearer k` all carry a key.

    Which kind of credential it is, its value tells: ADMIN_API_KEY, an API key, or neither. Raises
    InvalidCredentialError for whatever does not hold; without any credential the request stays
    anonymous, unless AUTH_DISABLED makes everybody the owner.
    """

    def authenticate(self, request: Request) -> tuple[Any, Principal] | None:
        credential, scheme = _credential(request)
        if credential is not None:
            principal = _identify(request, credential, scheme)
        elif settings.AUTH_DISABLED:
            principal = _instance_principal(request, "auth_disabled")
        else:
            return None
        request._request.principal = principal  # type: ignore[attr-defined]  # for the access log
        return None, principal

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HasPrincipal(BasePermission):
    """Lets nobody in without a credential; what each may do is the services' business."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return isinstance(request.auth, Principal)


def _credential(request: Request) -> tuple[str | None, str]:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() in {"bearer", "token"}:
        return value.strip(), scheme.lower()
    key = request.headers.get("X-API-Key")
    return (key.strip() if key is not None else None), "x-api-key"


def _identify(request: Request, credential: str, scheme: str) -> Principal:
    admin_key = settings.ADMIN_API_KEY
    if admin_key and hmac.compare_digest(credential.encode(), admin_key.encode()):
        return _instance_principal(request, "admin_api_key")
    if scheme == "bearer" and not credential.startswith(PREFIX):
        raise InvalidCredentialError("Invalid or expired token.")
    row = find_api_key(credential)
    if row is None or row.revoked_at is not None:
        raise InvalidCredentialError("Invalid API key.")
    if row.expires_at is not None and row.expires_at <= timezone.now():
        raise InvalidCredentialError("API key has expired.")
    if not row.owner_is_active:
        raise InvalidCredentialError("API key owner not found.")
    note_use(row)
    return principal_of(row, request_id=_request_id(request), client=_client(request))


def _instance_principal(request: Request, via: Via) -> Principal:
    """The instance owner in project Default, or in the one that `X-Project` names."""
    wanted = request.headers.get("X-Project", "").strip()
    projects = Project.objects.filter(slug=wanted or DEFAULT_PROJECT)
    with contextlib.suppress(ValueError):  # what is no id is a slug
        projects = Project.objects.filter(id=UUID(wanted)) if wanted else projects
    project = projects.first()
    if project is None:
        raise NotFoundError("Project not found.")
    return Principal(
        project=project_view(project),
        scopes=ALL_SCOPES,
        via=via,
        is_owner=True,
        request_id=_request_id(request),
        client=_client(request),
    )


def _request_id(request: Request) -> str:
    return str(getattr(request._request, "request_id", ""))


def _client(request: Request) -> str:
    """What the caller says it is, for the audit: a client's own header, else its user agent."""
    name = request.headers.get("X-Mem0-Client") or request.headers.get("User-Agent", "")
    return name[:200]
