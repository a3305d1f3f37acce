"""Translates the product's errors into the shapes of the dialects."""

import logging
from typing import Any, Final

from django.db import DatabaseError, InterfaceError, OperationalError
from pydantic import ValidationError
from rest_framework import exceptions
from rest_framework.response import Response

from core.database.datastore import explain
from core.errors import (
    DatastoreUnavailableError,
    EngineError,
    IndexUnavailableError,
    InvalidCredentialError,
    Mem0dashError,
    NotAuthenticatedError,
    NotConfiguredError,
)

logger = logging.getLogger(__name__)

NO_CREDENTIAL = "Authentication required. Provide a Bearer token or X-API-Key header."
DATABASE_DOWN = "The memory database is unreachable."
INDEX_DOWN = "The vector store is unreachable or returned an error."


# Fields that are never echoed in an error.
_SECRETS: Final = frozenset(
    {"password", "current_password", "new_password", "refresh_token", "setup_token", "api_key"}
)


class BodyError(Exception):
    """An invalid body or query, as a list of FastAPI's error objects."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__("invalid request")
        self.errors = errors

    @classmethod
    def from_pydantic(cls, error: ValidationError, where: str) -> "BodyError":
        """Pydantic's errors with `where` ("body", "query", "path") in front of each location."""
        errors = []
        for item in error.errors(include_url=False, include_context=True):
            # The input of a missing field is the object that lacks it.
            place = item["loc"][:-1] if item["type"] == "missing" else item["loc"]
            entry: dict[str, Any] = {
                "type": item["type"],
                "loc": [where, *item["loc"]],
                "msg": item["msg"],
                "input": _echo(item["input"], place),
            }
            if context := item.get("ctx"):
                entry["ctx"] = {k: v if _plain(v) else str(v) for k, v in context.items()}
            errors.append(entry)
        return cls(errors)


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _echo(value: Any, place: tuple[int | str, ...]) -> Any:
    """The invalid input for the answer: shortened, and without secrets."""
    if value is not None and any(str(step).lower() in _SECRETS for step in place):
        return "[redacted]"
    return without_secrets(_short(value))


def without_secrets(value: Any) -> Any:
    """JSON with the values of secret fields redacted, at any depth."""
    if isinstance(value, dict):
        return {
            k: "[redacted]" if v is not None and k.lower() in _SECRETS else without_secrets(v)
            for k, v in value.items()
        }
    return [without_secrets(item) for item in value] if isinstance(value, list) else value


def _short(value: Any) -> Any:
    """The invalid input, shortened."""
    if isinstance(value, str):
        return value if len(value) <= 200 else value[:200] + "…"
    if isinstance(value, list):
        return [_short(item) for item in value] if len(value) <= 20 else f"[{len(value)} items]"
    if isinstance(value, dict):
        few = {name[:200]: _short(item) for name, item in value.items()}
        return few if len(value) <= 20 else f"{{{len(value)} fields}}"
    return value


def oss_exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """The OSS dialect: `{"detail": text}`, FastAPI's list for 422, a code and id for 502."""
    request_id = str(getattr(context["request"]._request, "request_id", ""))
    if isinstance(error, exceptions.NotAuthenticated):
        error = NotAuthenticatedError(NO_CREDENTIAL)
    if isinstance(error, BodyError):
        return Response({"detail": error.errors}, status=422)
    if isinstance(error, exceptions.ParseError):
        item = {"type": "json_invalid", "loc": ["body"], "msg": "JSON decode error", "input": {}}
        return Response({"detail": [{**item, "ctx": {"error": str(error.detail)}}]}, status=422)
    if isinstance(error, exceptions.MethodNotAllowed):
        return Response({"detail": "Method Not Allowed"}, status=405)
    if isinstance(error, exceptions.APIException):
        return Response({"detail": str(error.detail)}, status=error.status_code)
    if isinstance(error, DatabaseError | InterfaceError):
        error = database_trouble(error, DATABASE_DOWN, request_id)
    elif isinstance(error, EngineError):
        log_failure(error, request_id)
        if isinstance(error, IndexUnavailableError):
            error = IndexUnavailableError(INDEX_DOWN, retry_after=5)
    return _answer(error, request_id) if isinstance(error, Mem0dashError) else None


def database_trouble(error: Exception, away: str, request_id: str) -> EngineError:
    """Logs a database error; returns the error for the caller."""
    explained = explain(error, away)
    extra = {"request_id": request_id, "cause": str(error).strip()[:300]}
    if type(explained) is DatastoreUnavailableError:
        # Anything but an outage is a bug of ours and logged with its traceback.
        is_outage = isinstance(error, OperationalError | InterfaceError)
        logger.error("database error", exc_info=None if is_outage else error, extra=extra)
    else:
        logger.warning(explained.code, extra=extra)
    return explained


def log_failure(error: EngineError, request_id: str) -> None:
    """Logs the failure of a provider or the index, with a traceback if its cause is unknown."""
    provider_message = getattr(error, "cause", "")
    is_known = bool(provider_message) or isinstance(error, IndexUnavailableError)
    cause = provider_message or type(error.__cause__ or error).__name__
    extra = {"request_id": request_id, "code": error.code, "cause": cause[:500]}
    logger.error("engine failed", exc_info=None if is_known else error, extra=extra)


def _answer(error: Mem0dashError, request_id: str) -> Response:
    # As the original, whose rate limiter has another shape.
    body: dict[str, Any] = {"error" if error.status == 429 else "detail": error.message}
    if isinstance(error, EngineError | NotConfiguredError):
        body |= {"code": error.code, "request_id": request_id}
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    # As the original: a challenge if no credential was sent, none for a wrong one.
    if isinstance(error, NotAuthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, NotAuthenticatedError | InvalidCredentialError):
        headers["Cache-Control"] = "no-store"
    return Response(body, status=error.status, headers=headers)
