"""The errors of the memserv dialect: detail, error and request_id; FastAPI's list for 422."""

import logging
from typing import Any, Final

from django.db import DatabaseError, InterfaceError
from rest_framework import exceptions
from rest_framework.response import Response

from core.errors import (
    DatastoreUnavailableError,
    EngineError,
    IndexUnavailableError,
    InvalidInputError,
    Mem0dashError,
    NotFoundError,
    NotUnderstoodError,
    StorageError,
)
from core.rest.errors import BodyError, database_trouble, log_failure, oss_exception_handler
from memories.api.headers import PROBLEM_HEADER

logger = logging.getLogger(__name__)

NO_CREDENTIAL: Final = "Invalid or missing bearer token"
PROVIDER_DOWN: Final = (
    "An upstream model provider (LLM or embedder) failed; check provider keys and status."
)
INDEX_DOWN: Final = "The vector store is unreachable or returned an error; try again later."
DATABASE_DOWN: Final = "The memory database is unreachable; try again later."
INTERNAL: Final = "Internal server error."
WAIT: Final = "Too many failed authentication attempts; try again later."


def memserv_exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Every error of the dialect's views, the unexpected ones as well."""
    request_id = str(getattr(context["request"]._request, "request_id", ""))
    if isinstance(error, InvalidInputError | NotFoundError):
        # As FastAPI tells what an application itself refuses: a sentence alone.
        # What would narrow and is not understood is 400 in every dialect.
        as_there = isinstance(error, NotFoundError | NotUnderstoodError)
        status = error.status if as_there else 422
        return Response({"detail": error.message}, status=status)
    if isinstance(error, exceptions.NotAuthenticated) or getattr(error, "status", None) == 401:
        headers = {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"}
        return Response({"detail": NO_CREDENTIAL}, status=401, headers=headers)
    if isinstance(error, BodyError | exceptions.APIException):
        answer = oss_exception_handler(error, context)
        assert answer is not None  # noqa: S101  (it knows both)
        return answer
    if isinstance(error, DatabaseError | InterfaceError):
        error = database_trouble(error, DATABASE_DOWN, request_id)
    elif isinstance(error, EngineError):
        log_failure(error, request_id)
    elif not isinstance(error, Mem0dashError):
        logger.error("internal error", exc_info=error, extra={"request_id": request_id})
        error = Mem0dashError(INTERNAL)
    return _answer(error, request_id)


def _answer(error: Mem0dashError, request_id: str) -> Response:
    status, code, detail = error.status, error.code, error.message
    headers = {}
    if isinstance(error, IndexUnavailableError | DatastoreUnavailableError):
        code = "backend_unavailable"
        # 502 belongs to providers in this dialect.
        status = 503 if status == 502 else status
        if isinstance(error, IndexUnavailableError):
            detail = INDEX_DOWN
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
