"""Undoes the last change of one memory, from its history."""

from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from core.errors import ConflictError, NotFoundError
from core.principal import Principal, Scope
from memories import runtime, visibility
from memories.editing import change
from memories.filters import to_q
from memories.models import AddInput, Memory, Revision
from memories.readings import Reading
from memories.storage.rows import replace_reading, text_to_embed


def undo_change(principal: Principal, memory_id: UUID | str, revision_id: int) -> Memory:
    """Undoes the memory's last change from its history; returns the memory.

    A change of text, metadata, review, confidence or expiry is undone by an update, with the vector
    of the former text; a deletion by restoring; an addition or a restore by deleting. ConflictError
    if the memory was changed since or can no longer be restored; NotFoundError if memory or
    revision are missing or in another project; EngineError if the former text could not be
    embedded; nothing has changed then. Scope `write` for the caller's own changes that `write`
    allows, `review` for all others.
    """
    principal.require(Scope.WRITE)
    id_ = visibility.as_uuid(memory_id)
    revision = _revision(principal, id_, revision_id)
    engine = runtime.get_runtime().engine
    reading = Reading(None)
    new_text = revision.event == "UPDATE" and revision.old_text != revision.new_text
    if new_text and revision.old_text:
        current = _reached(principal, id_).get()
        [reading] = engine.read([text_to_embed(current, revision.old_text)])
    with transaction.atomic():
        memory = _reached(principal, id_).select_for_update().get()
        change.mark_as_unchanged([memory])
        _take_back(memory, revision, principal)
        if new_text:
            replace_reading(memory, reading, engine.model_key, engine.states_key)
    runtime.get_runtime().apply([memory])
    return memory


def _reached(principal: Principal, memory_id: UUID) -> QuerySet[Memory]:
    """The caller's memory, live or deleted."""
    rows = Memory.objects.filter(project_id=principal.project.id, id=memory_id)
    return rows.filter(to_q(visibility.limit_of(principal), principal.project.zone))


def _revision(principal: Principal, memory_id: UUID, revision_id: int) -> Revision:
    """The revision, if the caller may undo it."""
    rows = Revision.objects.filter(project_id=principal.project.id, memory_id=memory_id)
    revision = rows.filter(id=revision_id).first()
    if revision is None or not _reached(principal, memory_id).exists():
        raise NotFoundError(f"Memory with id {memory_id} not found")
    own = (revision.account_id, revision.key_id) == (principal.account_id, principal.key_id)
    if not own or "review_status" in revision.changes:
        principal.require(Scope.REVIEW)
    return revision


def _take_back(memory: Memory, revision: Revision, principal: Principal) -> None:
    """Undoes the revision on the locked row."""
    last = Revision.objects.filter(memory_id=memory.id).order_by("-id").first()
    if last is None or last.id != revision.id:
        raise ConflictError("This memory was changed since: the change before cannot be undone.")
    if revision.event == "UPDATE":
        values = {name: change.from_json(name, pair[0]) for name, pair in revision.changes.items()}
        fingerprint = ""
        if (text := revision.old_text) is not None:
            values["text"] = text
            fingerprint = _whole_fingerprint(memory, text) if text != memory.text else ""
        change.write([memory], values, principal=principal, fingerprint=fingerprint)
    elif revision.event == "DELETE" and memory.text:
        change.restore([memory], principal=principal)
    elif revision.event in {"ADD", "RESTORE"} and memory.deleted_at is None:
        change.delete([memory], principal=principal)
    else:
        raise ConflictError("What is erased cannot be brought back.")


def _whole_fingerprint(memory: Memory, text: str) -> str:
    """The fingerprint of the memory's whole add if it was added with this text, so that the same
    add finds it again; else ""."""
    revisions = Revision.objects.filter(memory_id=memory.id, event="ADD", new_text=text)
    input_ = (
        AddInput.objects.filter(pk__in=[memory.batch_id]).first() if revisions.exists() else None
    )
    return str(input_.options.get("fingerprint", "")) if input_ else ""
