"""What the OSS dialect answers: the wire format, visible in one place."""

import hashlib
from datetime import datetime
from typing import Any

from memories.models import Memory, Revision
from memories.queries import EntityTotals
from memories.search.service import SearchHit


def instant(moment: datetime) -> str:
    """ISO 8601 with offset, as mem0 writes it: 2026-11-20T07:52:55.914406+00:00."""
    return moment.isoformat()


def text_hash(text: str) -> str:
    """MD5 of the text, which mem0 publishes as `hash`."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _metadata(memory: Memory) -> dict[str, Any]:
    """The metadata as it was sent, with the app where clients of this dialect look for it."""
    if memory.app_id and "app_id" not in memory.metadata:
        return {**memory.metadata, "app_id": memory.app_id}
    return dict(memory.metadata)


def memory_shape(memory: Memory, *, score: float | str | None = "absent") -> dict[str, Any]:
    """One memory; `score` stands in it for get (null) and search, and not in lists."""
    shape: dict[str, Any] = {
        "id": str(memory.id),
        "memory": memory.text,
        "hash": text_hash(memory.text),
        "metadata": _metadata(memory) or None,
    }
    if score != "absent":
        shape["score"] = score
    shape["created_at"] = instant(memory.created_at)
    shape["updated_at"] = instant(memory.updated_at)
    for name in ("user_id", "agent_id", "run_id", "actor_id", "role", "attributed_to"):
        if value := getattr(memory, name):
            shape[name] = value
    if memory.expiration_date:
        shape["expiration_date"] = memory.expiration_date.isoformat()
    return shape


def listed_shape(memory: Memory) -> dict[str, Any]:
    """One memory in the list of all: every key, nulls included."""
    return {
        "id": str(memory.id),
        "memory": memory.text,
        "user_id": memory.user_id or None,
        "agent_id": memory.agent_id or None,
        "run_id": memory.run_id or None,
        "hash": text_hash(memory.text),
        "expiration_date": memory.expiration_date.isoformat() if memory.expiration_date else None,
        "metadata": _metadata(memory),
        "created_at": instant(memory.created_at),
        "updated_at": instant(memory.updated_at),
    }


def hit_shape(hit: SearchHit, *, threshold: float, explain: bool) -> dict[str, Any]:
    """One found memory. The details are mem0's keys, and after them the terms of our own score."""
    shape = memory_shape(hit.memory, score=hit.score)
    if explain:
        terms = hit.terms
        raw = sum(terms.values())
        shape["score_details"] = {
            "semantic_score": terms["semantic"],
            "bm25_score": terms["lexical"],
            "entity_boost": 0.0,
            "raw_score": raw,
            "max_possible_score": raw / hit.score if 0 < hit.score < 1 else None,
            "final_score": hit.score,
            "threshold": threshold,
            "neighbour_score": terms["neighbour"],
            "session_score": terms["session"],
            "question_penalty": terms["question"],
            "date_score": terms["date"],
            # null where late interaction had no part.
            "late_score": terms.get("late"),
        }
    return shape


def revision_shape(revision: Revision) -> dict[str, Any]:
    """One entry of a history: an UPDATE keeps the memory's creation time, as mem0 does."""
    is_add = revision.event == "ADD"
    return {
        "id": str(revision.pk),
        "memory_id": str(revision.memory_id),
        "old_memory": revision.old_text,
        "new_memory": revision.new_text,
        "event": revision.event,
        "created_at": instant(revision.memory_created_at),
        "updated_at": None if is_add else instant(revision.at),
        "is_deleted": revision.event in {"DELETE", "ERASE"},
        "actor_id": revision.actor_id or None,
        "role": revision.role or None,
    }


def entity_shape(entity: EntityTotals) -> dict[str, Any]:
    return {
        "id": entity["id"],
        "type": entity["type"],
        "total_memories": entity["total_memories"],
        "created_at": instant(entity["created_at"]),
        "updated_at": instant(entity["updated_at"]),
    }
