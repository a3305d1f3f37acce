"""The history of memories: each change writes one entry and publishes one event."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from core.principal import Principal
from jobs import outbox
from memories.models import Memory, Revision

# The published event, by the event of the entry.
KINDS: Final[Mapping[str, str]] = {
    "ADD": "memory.added",
    "UPDATE": "memory.updated",
    "DELETE": "memory.deleted",
    "RESTORE": "memory.restored",
    "ERASE": "memory.erased",
}
REVIEWED: Final = "memory.reviewed"
_REVIEW: Final = frozenset({"review_status", "reviewed_by", "reviewed_at"})


def entry(
    memory: Memory,
    event: str,
    principal: Principal,
    *,
    old_text: str | None = None,
    new_text: str | None = None,
    changes: Mapping[str, Any] | None = None,
    at: datetime,
) -> Revision:
    """An unsaved entry of the memory's history, in the caller's name. `changes` maps a field to
    [before, after]."""
    return Revision(
        project_id=memory.project_id,
        memory_id=memory.id,
        event=event,
        old_text=old_text,
        new_text=new_text,
        changes=dict(changes or {}),
        memory_created_at=memory.created_at,
        actor_id=memory.actor_id,
        role=memory.role,
        at=at,
        **Revision.columns(principal.actor),
    )


def record(entries: Iterable[Revision], *, are_news: bool = True) -> None:
    """Writes the entries in the caller's transaction and, if there are subscribers, an event for
    each. Without `are_news`, for example for demo history, nothing is published.

    An event names its memory and its entry and contains no text, because erased text must not
    survive in a copy.
    """
    revisions = Revision.objects.bulk_create(entries)
    if not are_news or not outbox.subscribers():
        return
    # In id order, because each publication locks a lane of its memory.
    for revision in sorted(revisions, key=lambda row: row.memory_id):
        outbox.publish(
            _kind(revision),
            project_id=revision.project_id,
            memory_id=revision.memory_id,
            revision_id=revision.pk,
            actor=revision.actor.plain(),
        )


def _kind(revision: Revision) -> str:
    """The event for subscribers. A change of the review alone is a review."""
    is_review = "review_status" in revision.changes and revision.changes.keys() <= _REVIEW
    if revision.event == "UPDATE" and is_review and revision.old_text == revision.new_text:
        return REVIEWED
    return KINDS[revision.event]
