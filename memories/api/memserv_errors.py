"""The errors of the memserv dialect: detail, error and request_id; FastAPI's list for 422."""

import logging
from typing import Any, Final

from django.db import DatabaseError, InterfaceError
from rest_framework import exceptions
from rest_framework.response import Response

from mem0dash.errors import (
    DatastoreUnavailableError,
    EngineError,
    IndexUnavailableError,
    InvalidInputError,
    Mem0dashError,
    NotFoundError,
    StorageError,
)
from mem0dash.rest.errors import BodyError, oss_exception_handler

logger = logging.getLogger(__name__)

NO_CREDENTIAL: Final = "Invalid or missing bearer token"
PROVIDER_DOWN: Final = (
    "An upstream model provider (LLM or embedder) failed; check provider keys and status."
)
INDEX_DOWN: Final = "The vector store is unreachable or returned an error; try again later."
DATABASE_DOWN: Final = "The memory database is unreachable; try again later."
INTERNAL: Final = "Internal server error."
WAIT: Final = "Too many failed authentication attempts; try again later."
PROBLEM_HEADER: Final = "X-Mem0dash-Problem"


def memserv_exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Every error of the dialect's views, the unexpected ones as well."""
    request_id = str(getattr(context["request"]._request, "request_id", ""))
    if isinstance(error, InvalidInputError | NotFoundError):
        # As FastAPI tells what an application itself refuses: a sentence alone.
        status = 422 if isinstance(error, InvalidInputError) else 404
        return Response({"detail": error.message}, status=status)
    if isinstance(error, exceptions.NotAuthenticated) or getattr(error, "status", None) == 401:
        headers = {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"}
        return Response({"detail": NO_CREDENTIAL}, status=401, headers=headers)
    if isinstance(error, BodyError | exceptions.APIException):
        answer = oss_exception_handler(error, context)
        assert answer is not None  # noqa: S101  (it knows both)
        return answer
    if isinstance(error, DatabaseError | InterfaceError):
        logger.error("database error", exc_info=error, extra={"request_id": request_id})
        error = DatastoreUnavailableError(DATABASE_DOWN, retry_after=5)
    elif isinstance(error, EngineError) and not isinstance(error, StorageError):
        logger.error("engine failed", exc_info=error, extra={"request_id": request_id})
    elif not isinstance(error, Mem0dashError):
        logger.error("internal error", exc_info=error, extra={"request_id": request_id})
        error = Mem0dashError(INTERNAL)
    return _answer(error, request_id)


def _answer(error: Mem0dashError, request_id: str) -> Response:
    status, code, detail = error.status, error.code, error.message
    headers = {}
    if isinstance(error, IndexUnavailableError | DatastoreUnavailableError):
        status, code = 503, "backend_unavailable"
        detail = INDEX_DOWN if isinstance(error, IndexUnavailableError) else DATABASE_DOWN
    elif isinstance(error, EngineError) and not isinstance(error, StorageError):
        # Which of the ways to fail it was, the dialect has no word for.
        headers[PROBLEM_HEADER] = code
        status, code, detail = 502, "upstream_provider_error", PROVIDER_DOWN
    elif status == 429:
        return Response(
            {"detail": WAIT}, status=429, headers={"Retry-After": str(error.retry_after or 1)}
        )
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    body = {"detail": detail, "error": code, "request_id": request_id}
    return Response(body, status=status, headers=headers)
