"""The sample data as rows: what is told in demo_set.json, dated back from now."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from core.principal import Principal
from memories import texts
from memories.models import AddInput, Memory, Revision
from memories.models.adds import INPUT_DAYS
from memories.storage import revisions
from memories.storage import rows as records
from memories.storage.rows import Draft

# What every memory of the set carries, for people and for filters.
SHOWN_MARK: Final = {"demo": True}
_FILE: Final = Path(__file__).with_name("demo_set.json")
_ENTITIES: Final = ("user", "agent", "app", "run")
_BETWEEN_TURNS: Final = timedelta(seconds=40)
Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SampleAdd:
    """What one add brought, as it is today: unsaved rows, the memories' whole history, and the
    input, where one of that age is still kept."""

    memories: list[Memory]
    revisions: list[Revision]
    kept: AddInput | None


def sample_adds(principal: Principal, now: datetime) -> list[SampleAdd]:
    """The whole set in the name of `principal`, always the same except for ids and dates."""
    entries: list[Entry] = json.loads(_FILE.read_text(encoding="utf-8"))
    return [_add(entry, principal, now) for entry in entries]


def _add(entry: Entry, principal: Principal, now: datetime) -> SampleAdd:
    drafts = _drafts(entry, now)
    rows = records.build_memories(drafts, principal=principal, batch_id=uuid4())
    young = now - rows[0].created_at < timedelta(days=INPUT_DAYS - 1)
    add_input = _input(entry, drafts[0], rows, principal) if young else None
    revisions: list[Revision] = []
    for row in rows:
        row.categories = list(entry.get("categories", []))
        revisions += _lived(row, entry, principal, now)
    return SampleAdd(rows, revisions, add_input)


def _moment(entry: Entry, now: datetime) -> datetime:
    """`hours` ago, or at a time of day (UTC) `days` days ago."""
    if "hours" in entry:
        return now - timedelta(hours=entry["hours"])
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    at = time.fromisoformat(entry["at"])
    return midnight - timedelta(days=entry["days"]) + timedelta(hours=at.hour, minutes=at.minute)


def _drafts(entry: Entry, now: datetime) -> list[Draft]:
    """The turns of a conversation, or the one fact that was drawn from what was said."""
    metadata = dict(SHOWN_MARK) | entry.get("metadata", {})
    metadata |= {
        name: entry[name] for name in ("source", "confidence", "language") if name in entry
    }
    if "expires_in" in entry:
        metadata["expires_at"] = (now + timedelta(days=entry["expires_in"])).isoformat()
    template = Draft(
        text=entry.get("text", ""),
        entities={f"{name}_id": entry[name] for name in _ENTITIES if name in entry},
        memory_type=entry.get("memory_type", ""),
        attributed_to="" if "turns" in entry else "user" if "user" in entry else "assistant",
        expiration_date=(
            (now + timedelta(days=entry["last_day_in"])).date() if "last_day_in" in entry else None
        ),
    )
    began = _moment(entry, now)
    return [
        replace(
            template,
            id=uuid4(),
            text=text or template.text,
            role=role,
            metadata={**metadata, "created_at": (began + n * _BETWEEN_TURNS).isoformat()},
        )
        for n, (role, text) in enumerate(entry.get("turns", [("", "")]))
    ]


def _input(entry: Entry, draft: Draft, rows: list[Memory], principal: Principal) -> AddInput:
    """What an add of these rows would have kept."""
    verbatim = "turns" in entry
    results: list[dict[str, Any]] = [
        {"id": str(row.id), "memory": row.text, "event": "ADD"} for row in rows
    ]
    if verbatim:
        results = [
            {**result, "actor_id": None, "role": row.role}
            for result, row in zip(results, rows, strict=True)
        ]
    last_day = draft.expiration_date
    return AddInput(
        id=rows[0].batch_id,
        project_id=principal.project.id,
        messages=[{"role": row.role or "user", "content": row.text} for row in rows],
        options={
            "entities": dict(draft.entities),
            "metadata": rows[0].metadata,
            "expiration_date": last_day.isoformat() if last_day else None,
            "infer": not verbatim,
            "memory_type": draft.memory_type or None,
            "prompt": None,
            "collection": draft.collection,
            "scopes": sorted(principal.scopes),
            "extracts": not verbatim,
        },
        outcome=AddInput.Outcome.STORED,
        results=results,
        created_at=rows[0].created_at,
        finished_at=rows[-1].created_at + timedelta(seconds=1),
        **AddInput.columns(principal.actor),
    )


def _lived(row: Memory, entry: Entry, principal: Principal, now: datetime) -> list[Revision]:
    """Brings the row through all that happened to it since; its history, oldest first."""
    history = [revisions.entry(row, "ADD", principal, new_text=row.text, at=row.created_at)]
    changes = [(_moment(edit, now), {"text": edit["text"]}) for edit in entry.get("edits", [])]
    if review := entry.get("review"):
        at = _moment(review, now)
        changes.append((at, _reviewed(row, review, at, principal)))
    for at, values in sorted(changes, key=lambda change: change[0]):
        history.append(_changed(row, values, at, principal))
    if "deleted" in entry:
        history.append(_deleted(row, _moment(entry["deleted"], now), now, principal))
    return history


def _reviewed(row: Memory, review: Entry, at: datetime, principal: Principal) -> dict[str, Any]:
    """What a review sets: the metadata that says so, and the columns it is promoted to."""
    details = {
        "review_status": review["status"],
        "reviewed_by": review["by"],
        "reviewed_at": at.isoformat(),
    }
    if "note" in review:
        details["review_note"] = review["note"]
    return {"metadata": {**row.metadata, **details}, **records.provenance(details, principal)}


def _changed(
    row: Memory, values: Mapping[str, Any], at: datetime, principal: Principal
) -> Revision:
    """Sets what services.update_memory would, at its time."""
    before = row.text
    changes = {}
    for name, value in values.items():
        if name != "text":
            changes[name] = [_plain(getattr(row, name)), _plain(value)]
        setattr(row, name, value)
    row.text_fold, row.fingerprint = texts.fold(row.text), texts.fingerprint(row.text)
    row.updated_at = at
    row.rev += 1
    return revisions.entry(
        row, "UPDATE", principal, old_text=before, new_text=row.text, changes=changes, at=at
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _deleted(row: Memory, at: datetime, now: datetime, principal: Principal) -> Revision:
    """Into the bin, and not so long ago that the project's retention would empty it at once."""
    at = max(at, now - 0.9 * timedelta(days=principal.project.retention_days))
    row.deleted_at = row.updated_at = at
    row.rev += 1
    return revisions.entry(row, "DELETE", principal, old_text=row.text, at=at)
