"""The history of memories: each change leaves one entry, and the event that tells of it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from core.principal import Principal
from jobs import outbox
from memories.models import Memory, Revision

# What a subscriber hears, by the event of the entry.
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
    """Writes the entries in the caller's transaction and, where somebody listens, an event for
    each. What is no news, such as a history that was made up, is told to nobody.

    An event names its memory and its entry, and holds no text: what is erased may not live on in a
    copy.
    """
    written = Revision.objects.bulk_create(entries)
    if not are_news or not outbox.subscribers():
        return
    # By id, for each publication locks a lane of its memory.
    for one in sorted(written, key=lambda one: one.memory_id):
        outbox.publish(
            _kind(one),
            project_id=one.project_id,
            memory_id=one.memory_id,
            revision_id=one.pk,
            actor=one.actor.plain(),
        )


def _kind(one: Revision) -> str:
    """What the entry is to a subscriber. A change of nothing but the review is a review."""
    is_review = "review_status" in one.changes and one.changes.keys() <= _REVIEW
    if one.event == "UPDATE" and is_review and one.old_text == one.new_text:
        return REVIEWED
    return KINDS[one.event]
