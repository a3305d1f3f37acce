"""Pieces of response schemas for the published OpenAPI document."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
TIME: Schema = {"type": "string", "format": "date-time"}
TIME_OR_NULL: Schema = {"type": ["string", "null"], "format": "date-time"}
UUID_TEXT: Schema = {"type": "string", "format": "uuid"}
ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}


def object_of(properties: Schema, *optional: str) -> Schema:
    """An object with these properties, all required except the `optional` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def list_of(item: Schema) -> Schema:
    return {"type": "array", "items": item}


MESSAGE = object_of({"message": TEXT})
ERROR = object_of(
    {
        "detail": {"description": "A sentence; for 422 a list of what does not fit"},
        "code": TEXT,
        "request_id": TEXT,
    },
    "code",
    "request_id",
)
# The original's rate limiter has another shape.
LIMITED = object_of({"error": TEXT})


def answers(success: Schema, *errors: int, status: int = 200) -> dict[Any, Any]:
    """The responses of a route: success, the usual errors, and these `errors`."""
    # 404 is possible everywhere, because X-Project may name a project that the caller is not in;
    # 503 is a locked database, 507 a full disk.
    codes = sorted({400, 401, 403, 404, 413, 422, 502, 503, 507, *errors})
    return {status: success, **{code: LIMITED if code == 429 else ERROR for code in codes}}
