"""Changes one memory, and writes the revision that tells of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.utils import timezone

from mem0dash.principal import Principal
from memories import texts
from memories.editing.actions import overwritten
from memories.models import AddInput, Memory, Revision
from memories.storage import rows as records


def change_values(memory: Memory, values: Mapping[str, Any], principal: Principal) -> None:
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


def mark(memory: Memory, deleted_at: datetime | None, event: str, principal: Principal) -> None:
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
