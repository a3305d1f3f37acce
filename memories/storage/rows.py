"""Builds and writes rows: a memory, its vector and its revision, always in one transaction."""

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
from django.utils import timezone

from core.errors import InvalidInputError
from core.principal import Principal, Scope
from memories.models import (
    ENTITY_FIELDS,
    Confidence,
    Memory,
    MemoryTokens,
    MemoryVector,
    ReviewStatus,
)
from memories.readings import Reading, TokenStates, Vector, pack_states, text_sum
from memories.storage import revisions
from memories.texts import entity_id, fingerprint, fold, parse_instant

# PostgreSQL stores at most 2,704 bytes in an index entry, and the browser's indexes contain all
# four ids, the source and more.
MAX_IDS_BYTES: Final = 2000

# Times that clients send as metadata. Numbers from _MILLISECONDS (the year 5138) are milliseconds;
# numbers below _SOONEST (1973) are counts or durations rather than times.
TIMES_IN_METADATA: Final = (
    *("created_at", "updated_at", "expires_at", "expiration_date", "reviewed_at"),
)
_MILLISECONDS: Final = 1e11
_SOONEST: Final = 1e8
_NUMBER: Final = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,9})?", re.ASCII)

# Keys that mem0 reserves in a payload: entities come from the call, never from metadata.
RESERVED_METADATA: Final = frozenset(
    {"user_id", "agent_id", "run_id", "actor_id", "data", "hash", "text_lemmatized", "updated_at"}
)


@dataclass(slots=True)
class Draft:
    """A memory about to be stored. `fingerprint` is that of its source; "" means that of its
    text."""

    text: str
    entities: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    role: str = ""
    actor_id: str = ""
    attributed_to: str = ""
    memory_type: str = ""
    expiration_date: date | None = None
    collection: str = "conversational"
    fingerprint: str = ""
    id: uuid.UUID = field(default_factory=uuid.uuid4)


def session_key(entities: Mapping[str, str], batch_id: uuid.UUID, batch_size: int) -> str:
    """The key of a memory's conversation: its run, else its add if that has several memories.

    Empty for a lone fact. The same run id under another user or agent is another conversation.
    """
    if entities.get("run_id"):
        scope = "\x1f".join(entities.get(name, "") for name in ENTITY_FIELDS)
    elif batch_size > 1:
        scope = str(batch_id)
    else:
        return ""
    return hashlib.md5(scope.encode(), usedforsecurity=False).hexdigest()


def read_time(value: object) -> datetime | None:
    """As `parse_instant`; also accepts seconds or milliseconds since 1970, as a number or as
    text."""
    if isinstance(value, str):
        if (parsed := parse_instant(value.strip())) is not None:
            return parsed
        if not _NUMBER.fullmatch(value.strip()):
            return None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if abs(value) < _SOONEST:
        return None
    seconds = value / 1000 if abs(value) >= _MILLISECONDS else value
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def check_times(metadata: Mapping[str, Any]) -> None:
    """InvalidInputError for an unreadable time in the metadata; null and "" mean no time."""
    for name in TIMES_IN_METADATA:
        value = metadata.get(name)
        if value not in (None, "") and read_time(value) is None:
            raise InvalidInputError(
                f"Invalid metadata {name}: use ISO 8601, such as 2026-12-01 or "
                "2026-12-01T09:30:00Z, or seconds or milliseconds since 1970."
            )


def provenance(metadata: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
    """The columns that valid provenance in the metadata is promoted to.

    A review status other than `unreviewed` counts only from a caller who may review.
    """
    columns: dict[str, Any] = {}
    source, confidence = metadata.get("source"), metadata.get("confidence")
    if isinstance(source, str) and 0 < len(source) <= 100:
        columns["source"] = source
    if confidence in Confidence.values:
        columns["confidence"] = confidence
    if (expires_at := read_time(metadata.get("expires_at"))) is not None:
        columns["expires_at"] = expires_at
    if (last := read_time(metadata.get("expiration_date"))) is not None:
        columns["expiration_date"] = last.date()
    status = metadata.get("review_status")
    if status in ReviewStatus.values and (
        status == ReviewStatus.UNREVIEWED or Scope.REVIEW in principal.scopes
    ):
        columns["review_status"] = status
        if status != ReviewStatus.UNREVIEWED:
            reviewer = metadata.get("reviewed_by")
            columns["reviewed_by"] = reviewer[:255] if isinstance(reviewer, str) else ""
            columns["reviewed_at"] = read_time(metadata.get("reviewed_at")) or timezone.now()
    return columns


def build_memories(
    drafts: Sequence[Draft], *, principal: Principal, batch_id: uuid.UUID
) -> list[Memory]:
    """Unsaved rows for the drafts of one add, in their order."""
    now = timezone.now()
    rows = []
    for seq, draft in enumerate(drafts):
        _check_ids(draft.entities)
        metadata = {k: v for k, v in draft.metadata.items() if k not in RESERVED_METADATA}
        # Imports bring their own time. Otherwise the microseconds keep the order of one add's
        # turns.
        created_at = read_time(metadata.get("created_at"))
        if created_at is not None:
            del metadata["created_at"]
        created_at = created_at or now + timedelta(microseconds=seq)
        columns = provenance(metadata, principal)
        if draft.expiration_date is not None:
            # The argument overrides the metadata.
            columns["expiration_date"] = draft.expiration_date
        rows.append(
            Memory(
                id=draft.id,
                project_id=principal.project.id,
                collection=draft.collection,
                text=draft.text,
                text_fold=fold(draft.text),
                **{name: draft.entities.get(name, "") for name in ENTITY_FIELDS},
                actor_id=draft.actor_id[:255],
                role=draft.role[:50],
                attributed_to=draft.attributed_to[:50],
                memory_type=draft.memory_type[:50],
                metadata=metadata,
                fingerprint=draft.fingerprint or fingerprint(draft.text),
                batch_id=batch_id,
                seq=seq,
                session=session_key(draft.entities, batch_id, len(drafts)),
                created_at=created_at,
                updated_at=created_at,
                **columns,
            )
        )
    return rows


def _check_ids(entities: Mapping[str, str]) -> None:
    """InvalidInputError if the ids together do not fit into one index entry."""
    if sum(len(entities.get(name, "").encode()) for name in ENTITY_FIELDS) > MAX_IDS_BYTES:
        raise InvalidInputError(
            f"{', '.join(ENTITY_FIELDS)} together cannot be longer than {MAX_IDS_BYTES} bytes."
        )


def text_to_embed(memory: Memory, text: str | None = None) -> str:
    """The text that the embedder reads for `memory` (or for its new `text`).

    A turn of a conversation carries its day, so that "what did we say on 5 March" finds it.
    """
    text = memory.text if text is None else text
    if not (memory.role and memory.session):
        return text
    day = memory.created_at.astimezone(UTC)
    return f"{text} ({day.day} {day:%B %Y})"


def insert_memories(
    memories: Sequence[Memory],
    readings: Sequence[Reading],
    model_key: str,
    states_key: str,
    *,
    principal: Principal,
) -> None:
    """Writes rows, vectors, token states and ADD revisions; the caller holds the transaction.

    Missing vectors and token states are made later.
    """
    now = timezone.now()
    Memory.objects.bulk_create(memories)
    insert_readings(memories, readings, model_key, states_key)
    revisions.record(
        revisions.entry(memory, "ADD", principal, new_text=memory.text, at=now)
        for memory in memories
    )


def insert_readings(
    memories: Sequence[Memory],
    readings: Sequence[Reading],
    model_key: str,
    states_key: str,
    *,
    others_may_have: bool = False,
) -> None:
    """Writes vectors and token states of memories that have none of these models. With
    `others_may_have`, rows that another process has made of the same text meanwhile stay or are
    replaced."""
    MemoryVector.objects.bulk_create(
        (
            vector_row(memory, reading.vector, model_key)
            for memory, reading in zip(memories, readings, strict=True)
            if reading.vector is not None
        ),
        ignore_conflicts=others_may_have,
    )
    tokens = [
        tokens_row(memory, reading.tokens, states_key)
        for memory, reading in zip(memories, readings, strict=True)
        if reading.tokens is not None
    ]
    if others_may_have:
        insert_tokens(tokens)
    else:
        MemoryTokens.objects.bulk_create(tokens)


def tokens_row(memory: Memory, tokens: TokenStates, states_key: str) -> MemoryTokens:
    """Unsaved token states, read from the text that `memory` has."""
    return MemoryTokens(
        memory=memory,
        project_id=memory.project_id,
        states_key=states_key,
        data=pack_states(tokens),
        text_sum=text_sum(memory.text),
    )


def insert_tokens(tokens: Sequence[MemoryTokens]) -> None:
    """Writes token states, replacing existing ones, for example of a previous model."""
    MemoryTokens.objects.bulk_create(
        tokens,
        update_conflicts=True,
        unique_fields=["memory"],
        update_fields=["project", "states_key", "data", "text_sum"],
    )


def replace_reading(memory: Memory, reading: Reading, model_key: str, states_key: str) -> None:
    """Replaces vectors and states after a change of the text. The old ones are removed even if
    there are no new ones."""
    MemoryVector.objects.filter(memory=memory).delete()
    MemoryTokens.objects.filter(memory=memory).delete()
    insert_readings([memory], [reading], model_key, states_key)


def vector_row(memory: Memory, vector: Vector, model_key: str) -> MemoryVector:
    data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return MemoryVector(
        memory=memory,
        project_id=memory.project_id,
        model_key=model_key,
        dims=len(vector),
        data=data,
    )


def adopted_app(metadata: Mapping[str, Any]) -> str | None:
    """`metadata.app_id`, which clients without an app field of their own use."""
    value = metadata.get("app_id")
    if not isinstance(value, str):
        return None
    try:
        return entity_id(value, "app_id")
    except InvalidInputError:
        return None  # not a valid id: it stays plain metadata
