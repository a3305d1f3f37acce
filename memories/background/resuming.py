"""Adds that a stop of the server cut off are tried again by themselves, a few times."""

import logging
import threading
from typing import Final

from django.db.models import QuerySet

from accounts.models import Project
from accounts.queries import operator_of
from core.errors import ConflictError, Mem0dashError
from memories.adding import claims
from memories.adding import idempotency as ingest
from memories.adding import service as adding
from memories.models import AddInput

logger = logging.getLogger(__name__)

# If the add itself stops the server, it must not do so after every start.
ATTEMPTS: Final = 3
PORTION: Final = 50
GIVEN_UP: Final = "The server stopped each time when this was tried."
SUPERSEDED: Final = "The same was sent again, and stored."


def resume(stop: threading.Event | None = None) -> int:
    """Tries each add that was cut off once more; how many were stored.

    One that fails is a failed add like any other, with its reason. What was sent again meanwhile
    is not stored a second time.
    """
    stored = 0
    for kept in _cut_off():
        if stop is not None and stop.is_set():
            break
        stored += _resumed(kept)
    return stored


def _cut_off() -> list[AddInput]:
    """The oldest adds that were cut off. By project, for that is how the index finds them."""
    failed = AddInput.objects.filter(
        project_id__in=list(Project.objects.values_list("id", flat=True)),
        outcome=AddInput.Outcome.FAILED,
        code=claims.INTERRUPTED,
    )
    return list(failed.select_related("project").order_by("created_at")[:PORTION])


def _resumed(kept: AddInput) -> bool:
    tried = int(kept.options.get(adding.RESUMED, 0))
    if tried >= ATTEMPTS:
        _close(kept, GIVEN_UP)
        return False
    # Counted before it is tried: who knows whether it comes back.
    options = {**kept.options, adding.RESUMED: tried + 1}
    if not _still(kept).update(options=options):
        return False
    try:
        adding.retry_add(operator_of(kept.project.slug), kept.pk)
    except ConflictError as error:
        if ingest.has_succeeded_since(kept):
            _close(kept, SUPERSEDED)
        elif not claims.is_under_way(kept):
            _close(kept, error.message)
        return False
    except Mem0dashError as error:
        why = {"input": str(kept.pk), "why": error.message}
        logger.warning("an add that was cut off has failed again", extra=why)
        return False
    logger.info("an add that was cut off has been stored", extra={"input": str(kept.pk)})
    ingest.note_resumed(kept)
    return True


def _still(kept: AddInput) -> QuerySet[AddInput]:
    return AddInput.objects.filter(
        pk=kept.pk, outcome=AddInput.Outcome.FAILED, code=claims.INTERRUPTED
    )


def _close(kept: AddInput, reason: str) -> None:
    """It is not tried any more; its input stays with the failed ones."""
    _still(kept).update(code="unknown", reason=reason)
