"""Response schemas of the OSS dialect for the published OpenAPI document."""

from core.rest.schemas import (
    ANY_OBJECT,
    TEXT,
    TEXT_OR_NULL,
    TIME,
    TIME_OR_NULL,
    UUID_TEXT,
    Schema,
    list_of,
    object_of,
)


def _results(item: Schema) -> Schema:
    return object_of({"results": list_of(item)})


ADDED = _results(
    object_of(
        {
            "id": UUID_TEXT,
            "memory": TEXT,
            "event": {"type": "string", "enum": ["ADD"]},
            "actor_id": TEXT_OR_NULL,
            "role": TEXT,
        },
        "actor_id",
        "role",
    )
)
MEMORY = object_of(
    {
        "id": UUID_TEXT,
        "memory": TEXT,
        "hash": {"type": "string", "description": "MD5 of the text"},
        "metadata": {**ANY_OBJECT, "type": ["object", "null"]},
        "score": {"type": ["number", "null"]},
        "created_at": TIME,
        "updated_at": TIME,
        "user_id": TEXT_OR_NULL,
        "agent_id": TEXT_OR_NULL,
        "run_id": TEXT_OR_NULL,
        "actor_id": TEXT,
        "role": TEXT,
        "attributed_to": TEXT,
        "expiration_date": TEXT_OR_NULL,
        "score_details": ANY_OBJECT,
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
    "items": object_of(
        {
            "id": TEXT,
            "memory_id": UUID_TEXT,
            "old_memory": TEXT_OR_NULL,
            "new_memory": TEXT_OR_NULL,
            "event": {"type": "string", "enum": ["ADD", "UPDATE", "DELETE", "RESTORE", "ERASE"]},
            "created_at": TIME,
            "updated_at": TIME_OR_NULL,
            "is_deleted": {"type": "boolean"},
            "actor_id": TEXT_OR_NULL,
            "role": TEXT_OR_NULL,
        }
    ),
}
ENTITIES: Schema = {
    "type": "array",
    "items": object_of(
        {
            "id": TEXT,
            "type": {"type": "string", "enum": ["user", "agent", "run"]},
            "total_memories": {"type": "integer"},
            "created_at": TIME,
            "updated_at": TIME,
        }
    ),
}
