"""The endpoints that clients call: token (RFC 6749), revoke (RFC 7009), register (RFC 7591)."""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_POST

from accounts.throttle import RateLimitedError
from core.errors import EngineError
from core.http.middleware import client_address
from core.http.waiting import IncomingRequest, ProviderWait, waits_for
from core.rest.errors import DATABASE_DOWN, database_trouble
from core.rest.json import loads
from oauth import limits
from oauth.backend import is_readable
from oauth.documents import is_document
from oauth.library import get_server
from oauth.metadata import MetadataError
from oauth.registration import register

Endpoint = Callable[[HttpRequest], HttpResponse]

REGISTRATION_BYTES: Final = 16 * 1024
FORM: Final = "application/x-www-form-urlencoded"
TOO_MANY: Final = "Too many failed attempts; try again later."


def problem(status: int, error: str, description: str) -> JsonResponse:
    """A refusal as RFC 6749 section 5.2 has it."""
    return JsonResponse({"error": error, "error_description": description}, status=status)


def endpoint(view: Endpoint) -> Endpoint:
    """An endpoint of OAuth: never cached, and what goes wrong behind it is told in OAuth's
    words."""

    @require_POST
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        request.auth_type = "oauth"  # type: ignore[attr-defined]  # for the request log
        try:
            response = view(request)
        except RateLimitedError as error:
            response = _waiting(error.retry_after or 60, error.message)
        except (DatabaseError, InterfaceError, EngineError) as error:
            response = _unavailable(request, error)
        response.headers["Cache-Control"] = "no-store"
        return response

    return guarded


def _waiting(seconds: int, sentence: str) -> HttpResponse:
    response = problem(429, "temporarily_unavailable", sentence)
    response.headers["Retry-After"] = str(seconds)
    return response


def _unavailable(request: HttpRequest, error: Exception) -> HttpResponse:
    """A server error, or the client would take its token for a wrong one."""
    request_id = str(getattr(request, "request_id", ""))
    told = (
        error
        if isinstance(error, EngineError)
        else database_trouble(error, DATABASE_DOWN, request_id)
    )
    response = problem(told.status, "temporarily_unavailable", told.message)
    response.headers["Retry-After"] = str(told.retry_after or 5)
    return response


def may_fetch_document(asked: IncomingRequest) -> ProviderWait:
    """A client whose id is the address of a document waits for whoever serves that."""
    ids = [*asked.parameters().get("client_id", []), *asked.form().get("client_id", [])]
    return ProviderWait.PROVIDERS if any(map(is_document, ids)) else ProviderWait.NOBODY


@waits_for(may_fetch_document)
@endpoint
def token(request: HttpRequest) -> HttpResponse:
    """POST /oauth/token: a code or a refresh token for a pair of tokens. Failures are limited for
    each address; whoever has a right code or token always gets through."""
    if (refused := _unreadable(request)) is not None:
        return refused
    _, headers, body, status = get_server().create_token_response(request)
    response = _answer(headers, body, status)
    if status in {400, 401} and (left := limits.count_failed_token(client_address(request))):
        return _waiting(left, TOO_MANY)
    return response


@waits_for(may_fetch_document)
@endpoint
def revoke(request: HttpRequest) -> HttpResponse:
    """POST /oauth/revoke: 200 for every token, whether it was one or not (RFC 7009 section 2.2)."""
    if (refused := _unreadable(request)) is not None:
        return refused
    _, headers, body, status = get_server().create_revocation_response(request)
    response = _answer(headers, body, status)
    if status in {400, 401} and (left := limits.count_failed_token(client_address(request))):
        return _waiting(left, TOO_MANY)
    return response


def _unreadable(request: HttpRequest) -> HttpResponse | None:
    """Why oauthlib is not asked: it would stumble over what no client sends."""
    if request.META.get("QUERY_STRING"):
        return problem(400, "invalid_request", "Send the parameters in the body, not the address.")
    if request.content_type != FORM:
        return problem(400, "invalid_request", f"Send the parameters as {FORM}.")
    if not is_readable(request.POST):
        return problem(400, "invalid_request", "A parameter cannot be read or comes twice.")
    return None


def _answer(headers: dict[str, str], body: str | None, status: int) -> HttpResponse:
    response = HttpResponse(body or "", status=status, content_type="application/json")
    for name, value in headers.items():
        response.headers[name] = value
    return response


@endpoint
def registration(request: HttpRequest) -> HttpResponse:
    """POST /oauth/register: a new client. The limits are oauth.limits'."""
    if not settings.OAUTH_REGISTRATION:
        return problem(403, "access_denied", "Apps cannot register themselves with this server.")
    if len(request.body) > REGISTRATION_BYTES:
        return problem(413, "invalid_client_metadata", "The metadata has more than 16 KiB.")
    try:
        said = _object(request.body)
        answer = register(said, address=client_address(request))
    except MetadataError as error:
        return problem(400, error.error, error.description)
    return HttpResponse(json.dumps(answer), status=201, content_type="application/json")


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise MetadataError("invalid_client_metadata", "The body must be a JSON object.")
    return said
