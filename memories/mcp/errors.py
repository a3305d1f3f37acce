"""Errors as an agent reads them: what is wrong, and what to do next."""

import logging
from typing import Final

from django.db import DatabaseError, InterfaceError

from core.errors import (
    ConflictError,
    DatastoreUnavailableError,
    EngineError,
    IndexUnavailableError,
    Mem0dashError,
    NotConfiguredError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    StorageError,
)
from core.rest.errors import DATABASE_DOWN, INDEX_DOWN, database_trouble, log_failure
from memories.mcp.caller import Caller

logger = logging.getLogger(__name__)

INTERNAL: Final = "Internal server error."
_NEXT: Final[dict[type[Mem0dashError], str]] = {
    NotFoundError: "Search or list memories for the ids that exist.",
    PermissionDeniedError: (
        "Do not try again: tell the user which permission is missing. They grant it on the "
        "server's dashboard, or by connecting this app again."
    ),
    NotConfiguredError: "Tell the user: the server's settings need a model provider.",
    ConflictError: "Read the memory again before you change it.",
    StorageError: "Tell the user. Reading and deleting still work.",
    ProviderError: "A model provider is away. Tell the user, and try again later.",
    EngineError: (
        "The memory store is away: this is no empty answer. Tell the user, and try again later."
    ),
}


def told(error: Exception, calling: Caller) -> str:
    """The sentences for an error of a call. What is the server's own trouble is logged, and named
    with the id under which the log has it."""
    request_id = calling.principal.request_id
    if isinstance(error, DatabaseError | InterfaceError):
        error = database_trouble(error, DATABASE_DOWN, request_id)
    elif isinstance(error, EngineError):
        log_failure(error, request_id)
        if isinstance(error, IndexUnavailableError):
            error = IndexUnavailableError(INDEX_DOWN, retry_after=5)
    elif not isinstance(error, Mem0dashError):
        calling.status = 500
        logger.error("internal error", exc_info=error, extra={"request_id": request_id})
        return f"{INTERNAL} Tell the user the request id: {request_id}."
    calling.status = error.status
    sentence = error.message if error.message.endswith((".", "?")) else f"{error.message}."
    parts = [sentence, _next(error)]
    if error.retry_after is not None:
        parts.append(f"Wait {error.retry_after} s.")
    if isinstance(error, EngineError):
        parts.append(f"(code {error.code}, request {request_id})")
    return " ".join(part for part in parts if part)


def _next(error: Mem0dashError) -> str:
    if isinstance(error, DatastoreUnavailableError):
        return _NEXT[EngineError]
    return next((_NEXT[kind] for kind in type(error).__mro__ if kind in _NEXT), "")
