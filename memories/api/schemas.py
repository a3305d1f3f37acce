"""Response schemas of the OSS dialect for the published OpenAPI document."""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_TIME: Schema = {"type": "string", "format": "date-time"}
_OBJECT: Schema = {"type": "object", "additionalProperties": True}


def _object(properties: Schema, *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _results(item: Schema) -> Schema:
    return _object({"results": {"type": "array", "items": item}})


ADDED = _results(
    _object(
        {
            "id": {"type": "string", "format": "uuid"},
            "memory": _TEXT,
            "event": {"type": "string", "enum": ["ADD"]},
            "actor_id": _TEXT_OR_NULL,
            "role": _TEXT,
        },
        "actor_id",
        "role",
    )
)
MEMORY = _object(
    {
        "id": {"type": "string", "format": "uuid"},
        "memory": _TEXT,
        "hash": {"type": "string", "description": "MD5 of the text"},
        "metadata": {**_OBJECT, "type": ["object", "null"]},
        "score": {"type": ["number", "null"]},
        "created_at": _TIME,
        "updated_at": _TIME,
        "user_id": _TEXT_OR_NULL,
        "agent_id": _TEXT_OR_NULL,
        "run_id": _TEXT_OR_NULL,
        "actor_id": _TEXT,
        "role": _TEXT,
        "attributed_to": _TEXT,
        "expiration_date": _TEXT_OR_NULL,
        "score_details": _OBJECT,
    },
    "score",
    "user_id",
    "agent_id",
    "run_id",
    "actor_id",
    "role",
    "attributed_to",
    "expiration_date",
    "score_details",
)
MEMORIES = _results(MEMORY)
MEMORY_OR_NULL: Schema = {"anyOf": [MEMORY, {"type": "null"}]}
HISTORY: Schema = {
    "type": "array",
    "items": _object(
        {
            "id": _TEXT,
            "memory_id": {"type": "string", "format": "uuid"},
            "old_memory": _TEXT_OR_NULL,
            "new_memory": _TEXT_OR_NULL,
            "event": {"type": "string", "enum": ["ADD", "UPDATE", "DELETE", "RESTORE", "ERASE"]},
            "created_at": _TIME,
            "updated_at": {"type": ["string", "null"], "format": "date-time"},
            "is_deleted": {"type": "boolean"},
            "actor_id": _TEXT_OR_NULL,
            "role": _TEXT_OR_NULL,
        }
    ),
}
ENTITIES: Schema = {
    "type": "array",
    "items": _object(
        {
            "id": _TEXT,
            "type": {"type": "string", "enum": ["user", "agent", "run"]},
            "total_memories": {"type": "integer"},
            "created_at": _TIME,
            "updated_at": _TIME,
        }
    ),
}
MESSAGE = _object({"message": _TEXT})
ERROR = _object(
    {
        "detail": {"description": "A sentence; for 422 a list of what does not fit"},
        "code": _TEXT,
        "request_id": _TEXT,
    },
    "code",
    "request_id",
)


def answers(success: Schema, *errors: int) -> dict[Any, Any]:
    """The responses of a route: 200, and the errors it can answer beside 401, 403, 422 and 502."""
    codes = sorted({400, 401, 403, 413, 422, 502, *errors})
    return {200: success, **dict.fromkeys(codes, ERROR)}
