"""Review, confidence and expiry of one memory."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from core.errors import ConflictError, InvalidInputError
from core.principal import Principal
from memories import runtime, visibility
from memories.editing import authors, change
from memories.editing.actions import parse_action
from memories.models import Memory, ReviewStatus

_ACTION_FOR: Final[Mapping[str, str]] = {
    ReviewStatus.APPROVED: "approve",
    ReviewStatus.REJECTED: "reject",
    ReviewStatus.STALE: "stale",
    ReviewStatus.UNREVIEWED: "unreview",
}


def set_review(
    principal: Principal, memory_id: UUID | str, status: str, *, rev: int | None = None
) -> Memory:
    """Sets the review status, the reviewer and the time. InvalidInputError for an unknown status;
    other errors as `set_confidence`."""
    if status not in _ACTION_FOR:
        # parse_action knows more actions than these.
        raise InvalidInputError(f"The review status is one of {', '.join(_ACTION_FOR)}.")
    return _set(principal, memory_id, _ACTION_FOR[status], "", rev)


def set_confidence(
    principal: Principal, memory_id: UUID | str, confidence: str, *, rev: int | None = None
) -> Memory:
    """Sets the confidence; returns the memory. A memory with this confidence stays unchanged.

    ConflictError if the memory is no longer at `rev`. NotFoundError if it is missing, deleted or in
    another project; InvalidInputError; scope `review`.
    """
    return _set(principal, memory_id, "confidence", confidence, rev)


def set_expiry(
    principal: Principal, memory_id: UUID | str, value: str, *, rev: int | None = None
) -> Memory:
    """Sets when the memory expires: a day (the last one, UTC), an ISO 8601 time, or "" for never.
    Errors as `set_confidence`."""
    return _set(principal, memory_id, "expire" if value else "unexpire", value, rev)


def _set(
    principal: Principal, memory_id: UUID | str, action: str, value: str, rev: int | None
) -> Memory:
    bound = parse_action(action, value)
    principal.require(bound.scope)
    reviewer = authors.reviewer_of(principal)
    with transaction.atomic():
        memory = change.locked(principal, visibility.as_uuid(memory_id))
        if rev is not None and memory.rev != rev:
            raise ConflictError("This memory has changed since you opened it.")
        if bound.is_same(tuple(getattr(memory, name) for name in bound.columns)):
            return memory
        change.write([memory], bound.values(reviewer, timezone.now()), principal=principal)
    runtime.get_runtime().apply([memory])
    return memory
