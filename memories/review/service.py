"""Review, confidence and expiry of one memory, and taking the last change of one back."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from mem0dash.errors import ConflictError, InvalidInputError, NotFoundError
from mem0dash.principal import Principal, Scope
from memories import runtime, texts, visibility
from memories.bulk import batch as bulk_changes
from memories.editing.actions import act, from_plain, overwritten
from memories.filters import to_q
from memories.models import AddInput, Memory, ReviewStatus, Revision
from memories.readings import Reading
from memories.storage import rows as records

_ACTION_FOR: Final[Mapping[str, str]] = {
    ReviewStatus.APPROVED: "approve",
    ReviewStatus.REJECTED: "reject",
    ReviewStatus.STALE: "stale",
    ReviewStatus.UNREVIEWED: "unreview",
}


def set_review(
    principal: Principal, memory_id: UUID | str, status: str, *, rev: int | None = None
) -> Memory:
    """Sets the review status, and by whom and when. InvalidInputError for an unknown one; else as
    `set_confidence`."""
    if status not in _ACTION_FOR:
        # Other actions have names as well, and would be done as if they were a status.
        raise InvalidInputError(f"The review status is one of {', '.join(_ACTION_FOR)}.")
    return _set(principal, memory_id, _ACTION_FOR[status], "", rev)


def set_confidence(
    principal: Principal, memory_id: UUID | str, confidence: str, *, rev: int | None = None
) -> Memory:
    """Sets the confidence; the memory as it is now. What is as wanted already stays untouched.

    With `rev` it has to be in this revision still: ConflictError otherwise. NotFoundError when
    missing, deleted or foreign; InvalidInputError; scope `review`.
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
    wanted = act(action, value)
    principal.require(wanted.scope)
    reviewer = bulk_changes.reviewer_of(principal)
    with transaction.atomic():
        memory = _live(principal, memory_id)
        if rev is not None and memory.rev != rev:
            raise ConflictError("This memory has changed since you opened it.")
        if wanted.is_same(tuple(getattr(memory, name) for name in wanted.columns)):
            return memory
        _change(memory, wanted.values(reviewer, timezone.now()), principal)
    runtime.current().apply([memory])
    return memory


def _live(principal: Principal, memory_id: UUID | str) -> Memory:
    """The memory, locked."""
    rows = visibility.reachable(principal).select_for_update()
    memory = rows.filter(id=visibility.as_uuid(memory_id)).first()
    if memory is None:
        raise NotFoundError(f"Memory with id {memory_id} not found")
    return memory


def undo_change(principal: Principal, memory_id: UUID | str, revision_id: int) -> Memory:
    """Takes back the memory's last change, as its history has it; the memory as it is then.

    A change of text, metadata, review, confidence or expiry is undone as an update, with the vector
    of the former text; a deletion by restoring, and an addition or restoring by deleting.
    ConflictError when the memory was changed since, or can no longer be restored; NotFoundError
    when memory or revision are missing or foreign; EngineError when the former text could not be
    embedded: then nothing has changed. Scope `write` for one's own changes of what `write` allows,
    `review` for all others.
    """
    principal.require(Scope.WRITE)
    wanted = visibility.as_uuid(memory_id)
    revision = _revision(principal, wanted, revision_id)
    engine = runtime.current().engine
    reading = Reading(None)
    new_text = revision.event == "UPDATE" and revision.old_text != revision.new_text
    if new_text and revision.old_text:
        seen = _reached(principal, wanted).get()
        [reading] = engine.read([records.embedded_text(seen, revision.old_text)])
    with transaction.atomic():
        memory = _reached(principal, wanted).select_for_update().get()
        bulk_changes.as_before({memory.id: memory.rev})
        _take_back(memory, revision, principal)
        if new_text:
            records.replace_reading(memory, reading, engine.model_key, engine.states_key)
    runtime.current().apply([memory])
    return memory


def _reached(principal: Principal, memory_id: UUID) -> QuerySet[Memory]:
    """The caller's memory, whether it is deleted or not."""
    rows = Memory.objects.filter(project_id=principal.project.id, id=memory_id)
    return rows.filter(to_q(visibility.limit_of(principal), principal.project.zone))


def _revision(principal: Principal, memory_id: UUID, revision_id: int) -> Revision:
    """The revision, of which the caller may undo the change."""
    rows = Revision.objects.filter(project_id=principal.project.id, memory_id=memory_id)
    revision = rows.filter(id=revision_id).first()
    if revision is None or not _reached(principal, memory_id).exists():
        raise NotFoundError(f"Memory with id {memory_id} not found")
    own = (revision.account_id, revision.key_id) == (principal.account_id, principal.key_id)
    if not own or "review_status" in revision.changes:
        principal.require(Scope.REVIEW)
    return revision


def _take_back(memory: Memory, revision: Revision, principal: Principal) -> None:
    """Undoes it on the locked row."""
    last = Revision.objects.filter(memory_id=memory.id).order_by("-id").first()
    if last is None or last.id != revision.id:
        raise ConflictError("This memory was changed since: the change before cannot be undone.")
    if revision.event == "UPDATE":
        values = {name: from_plain(name, pair[0]) for name, pair in revision.changes.items()}
        if revision.old_text is not None:
            values["text"] = revision.old_text
        _change(memory, values, principal)
    elif revision.event == "DELETE" and memory.text:
        _mark(memory, None, "RESTORE", principal)
    elif revision.event in {"ADD", "RESTORE"} and memory.deleted_at is None:
        _mark(memory, timezone.now(), "DELETE", principal)
    else:
        raise ConflictError("What is erased cannot be brought back.")


def _change(memory: Memory, values: Mapping[str, Any], principal: Principal) -> None:
    """Sets the values on the locked row, with a revision."""
    before = memory.text
    changes = overwritten(memory, values)
    for name, value in values.items():
        setattr(memory, name, value)
    written = [*values, "updated_at", "rev"]
    # Only a new text has another fingerprint: that of several messages is theirs together.
    if memory.text != before:
        memory.text_fold = texts.fold(memory.text)
        memory.fingerprint = _fingerprint(memory)
        written += ["text_fold", "fingerprint"]
    memory.updated_at = timezone.now()
    memory.rev += 1
    memory.save(update_fields=written)
    changes.pop("text", None)
    records.revision(
        memory,
        "UPDATE",
        principal,
        old_text=before,
        new_text=memory.text,
        changes=changes,
        at=memory.updated_at,
    ).save()


def _fingerprint(memory: Memory) -> str:
    """The fingerprint of a text that has come back: that of its whole add, if it was added with
    this text, for the same add is to find it again."""
    added = Revision.objects.filter(memory_id=memory.id, event="ADD", new_text=memory.text)
    kept = AddInput.objects.filter(pk__in=[memory.batch_id]).first() if added.exists() else None
    whole = str(kept.options.get("fingerprint", "")) if kept else ""
    return whole or texts.fingerprint(memory.text)


def _mark(memory: Memory, deleted_at: datetime | None, event: str, principal: Principal) -> None:
    """Deletes or restores the locked row, with a revision."""
    memory.deleted_at, memory.updated_at = deleted_at, timezone.now()
    memory.rev += 1
    memory.save(update_fields=["deleted_at", "updated_at", "rev"])
    records.revision(
        memory,
        event,
        principal,
        old_text=memory.text if event == "DELETE" else None,
        new_text=memory.text if event == "RESTORE" else None,
        at=memory.updated_at,
    ).save()
