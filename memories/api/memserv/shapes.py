"""What the memserv dialect answers, and the schemas of it."""

from typing import Any

from core.rest.schemas import ERROR, MESSAGE, TEXT, TIME, UUID_TEXT, Schema, list_of, object_of
from memories.api.oss import schemas
from memories.api.oss.shapes import instant, memory_shape, text_hash
from memories.bulk.sweep import SweepResult
from memories.models import Memory
from memories.search.service import SearchHit

_WHOLE: Schema = {"type": "integer", "minimum": 0}
_YES: Schema = {"type": "boolean"}
_SCORES: Schema = {
    **schemas.MEMORY["properties"],
    "rerank_score": {"type": "number", "minimum": 0, "maximum": 1},
}
FOUND: Schema = {**schemas.MEMORY, "properties": _SCORES}
# By words: the metadata stand beside the fields, and there is no score.
FLAT = {
    **object_of(
        {"id": UUID_TEXT, "memory": TEXT, "hash": TEXT, "created_at": TIME, "updated_at": TIME}
    ),
    "additionalProperties": True,
}
ADDED = object_of(
    {
        "results": list_of(object_of({"id": UUID_TEXT, "memory": TEXT, "event": TEXT})),
        "deduplicated": _YES,
        "memory_id": UUID_TEXT,
    },
    "deduplicated",
    "memory_id",
)
FINDINGS = object_of({"results": list_of({"anyOf": [FOUND, FLAT]})})
PAGE = object_of(
    {
        "results": list_of(schemas.MEMORY),
        "pagination": object_of({"limit": _WHOLE, "offset": _WHOLE, "has_more": _YES}),
        "next_cursor": TEXT,
    },
    "next_cursor",
)
SWEPT = object_of(
    {
        "matched": _WHOLE,
        "deleted": _WHOLE,
        "dry_run": _YES,
        "has_more": _YES,
        "sample": list_of(object_of({"id": UUID_TEXT, "memory": TEXT})),
    }
)
DELETED = object_of({"deleted": _YES, "memory_id": UUID_TEXT})
HISTORY = object_of({"history": schemas.HISTORY})
UPDATED = MESSAGE
_ERROR = {
    **ERROR,
    "properties": {
        "detail": {"description": "A sentence; for 422 it may be a list of what does not fit"},
        "error": TEXT,
        "request_id": TEXT,
    },
}


def answers(success: Schema, *errors: int) -> dict[int, Schema]:
    """The responses of a route, with the errors that all of them can answer."""
    # 400 is for names that are not understood, 507 for a disk that is full.
    codes = sorted({400, 401, 403, 404, 413, 422, 429, 500, 502, 503, 507, *errors})
    return {200: success, **dict.fromkeys(codes, _ERROR)}


def added_shape(results: list[dict[str, Any]], duplicate_of: object | None) -> dict[str, Any]:
    """What an add answers; `duplicate_of` is the id of the memory that holds it already."""
    if duplicate_of is not None:
        return {"results": [], "deduplicated": True, "memory_id": str(duplicate_of)}
    return {"results": [{key: row[key] for key in ("id", "memory", "event")} for row in results]}


def found_shape(hit: SearchHit) -> dict[str, Any]:
    shape = memory_shape(hit.memory, score=hit.score)
    if hit.rerank_score is not None:
        shape["rerank_score"] = hit.rerank_score
    return shape


def flat_shape(memory: Memory) -> dict[str, Any]:
    """A memory with its metadata beside its fields, which stand above them."""
    shape: dict[str, Any] = {
        "id": str(memory.id),
        "memory": memory.text,
        "hash": text_hash(memory.text),
        "created_at": instant(memory.created_at),
        "updated_at": instant(memory.updated_at),
    }
    for name in ("user_id", "agent_id", "run_id", "actor_id", "role"):
        if value := getattr(memory, name):
            shape[name] = value
    return {**shape, **{k: v for k, v in memory.metadata.items() if k not in shape}}


def swept_shape(swept: SweepResult, *, dry_run: bool) -> dict[str, Any]:
    return {
        "matched": swept.matched,
        "deleted": swept.deleted,
        "dry_run": dry_run,
        "has_more": swept.has_more,
        "sample": [{"id": str(row.id), "memory": row.text} for row in swept.sample],
    }
