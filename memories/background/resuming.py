"""Retries adds that a server stop interrupted, a few times."""

import logging
import threading
from typing import Final

from django.db.models import QuerySet

from accounts.models import Project
from accounts.queries import operator_of
from core.errors import ConflictError, Mem0dashError
from memories.adding import claims, idempotency
from memories.adding import service as adding
from memories.models import AddInput

logger = logging.getLogger(__name__)

# If the add itself crashes the server, it must not do so after every start.
ATTEMPTS: Final = 3
PORTION: Final = 50
GIVEN_UP: Final = "The server stopped each time when this was tried."
SUPERSEDED: Final = "The same was sent again, and stored."


def resume(stop: threading.Event | None = None) -> int:
    """Retries each interrupted add once; how many were stored.

    One that fails becomes an ordinary failed add with its reason. An add that was sent again
    meanwhile is not stored twice.
    """
    stored = 0
    for input_ in _cut_off():
        if stop is not None and stop.is_set():
            break
        stored += _resumed(input_)
    return stored


def _cut_off() -> list[AddInput]:
    """The oldest interrupted adds. The filter by project lets the query use the SQL index."""
    failed = AddInput.objects.filter(
        project_id__in=list(Project.objects.values_list("id", flat=True)),
        outcome=AddInput.Outcome.FAILED,
        code=claims.INTERRUPTED,
    )
    return list(failed.select_related("project").order_by("created_at")[:PORTION])


def _resumed(input_: AddInput) -> bool:
    attempts = int(input_.options.get(adding.RESUMED, 0))
    if attempts >= ATTEMPTS:
        _close(input_, GIVEN_UP)
        return False
    # Counted before the attempt, which may kill the process.
    options = {**input_.options, adding.RESUMED: attempts + 1}
    if not _still(input_).update(options=options):
        return False
    try:
        adding.retry_add(operator_of(input_.project.slug), input_.pk)
    except ConflictError as error:
        if idempotency.has_succeeded_since(input_):
            _close(input_, SUPERSEDED)
        elif not claims.is_under_way(input_):
            _close(input_, error.message)
        return False
    except Mem0dashError as error:
        why = {"input": str(input_.pk), "why": error.message}
        logger.warning("an add that was cut off has failed again", extra=why)
        return False
    logger.info("an add that was cut off has been stored", extra={"input": str(input_.pk)})
    idempotency.note_resumed(input_)
    return True


def _still(input_: AddInput) -> QuerySet[AddInput]:
    return AddInput.objects.filter(
        pk=input_.pk, outcome=AddInput.Outcome.FAILED, code=claims.INTERRUPTED
    )


def _close(input_: AddInput, reason: str) -> None:
    """Ends the retries; the input stays as a failed add."""
    _still(input_).update(code="unknown", reason=reason)
