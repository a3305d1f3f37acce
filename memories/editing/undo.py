"""Takes the last change of one memory back, as its history has it."""

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
from memories.storage import rows as records


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
    engine = runtime.get_runtime().engine
    reading = Reading(None)
    new_text = revision.event == "UPDATE" and revision.old_text != revision.new_text
    if new_text and revision.old_text:
        seen = _reached(principal, wanted).get()
        [reading] = engine.read([records.text_to_embed(seen, revision.old_text)])
    with transaction.atomic():
        memory = _reached(principal, wanted).select_for_update().get()
        change.mark_as_unchanged([memory])
        _take_back(memory, revision, principal)
        if new_text:
            records.replace_reading(memory, reading, engine.model_key, engine.states_key)
    runtime.get_runtime().apply([memory])
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
        values = {name: change.from_json(name, pair[0]) for name, pair in revision.changes.items()}
        known = ""
        if (text := revision.old_text) is not None:
            values["text"] = text
            known = _whole_fingerprint(memory, text) if text != memory.text else ""
        change.write([memory], values, principal=principal, fingerprint=known)
    elif revision.event == "DELETE" and memory.text:
        change.restore([memory], principal=principal)
    elif revision.event in {"ADD", "RESTORE"} and memory.deleted_at is None:
        change.delete([memory], principal=principal)
    else:
        raise ConflictError("What is erased cannot be brought back.")


def _whole_fingerprint(memory: Memory, text: str) -> str:
    """The fingerprint of the memory's whole add, if it was added with this text, for the same add
    is to find it again; else ""."""
    added = Revision.objects.filter(memory_id=memory.id, event="ADD", new_text=text)
    kept = AddInput.objects.filter(pk__in=[memory.batch_id]).first() if added.exists() else None
    return str(kept.options.get("fingerprint", "")) if kept else ""
