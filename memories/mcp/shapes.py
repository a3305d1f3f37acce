"""What the tools answer, and the schemas of it: JSON that an agent reads, without what it never
needs."""

from datetime import datetime
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter

# Pydantic reads those of the standard library from Python 3.12 on.
from typing_extensions import TypedDict

from memories.models import Memory, Revision
from memories.queries import EntityTotals
from memories.search.service import SearchHit


class FoundMemory(TypedDict):
    """One memory; what it does not have is left out."""

    id: str
    memory: str
    user_id: NotRequired[str]
    agent_id: NotRequired[str]
    app_id: NotRequired[str]
    run_id: NotRequired[str]
    actor_id: NotRequired[str]
    role: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    source: NotRequired[str]
    confidence: str
    review_status: str
    expiration_date: NotRequired[str]
    expires_at: NotRequired[str]
    created_at: str
    updated_at: str
    score: NotRequired[float]
    rerank_score: NotRequired[float]


class Added(TypedDict):
    """One memory that an add made."""

    id: str
    memory: str
    event: str


class AddAnswer(TypedDict):
    """What an add stored. `deduplicated` says that `memory_id` holds the same already."""

    results: list[Added]
    stored: Literal["verbatim", "extracted"]
    deduplicated: NotRequired[bool]
    memory_id: NotRequired[str]
    note: NotRequired[str]


class SearchAnswer(TypedDict):
    """What a search found, best first. `note` says what kept it from searching by meaning."""

    results: list[FoundMemory]
    mode: Literal["semantic", "keyword"]
    note: NotRequired[str]


class Pagination(TypedDict):
    """Where a page stands, and whether there is another."""

    limit: int
    offset: int
    has_more: bool


class ListAnswer(TypedDict):
    """A page of memories, newest first."""

    results: list[FoundMemory]
    pagination: Pagination


class UpdateAnswer(TypedDict):
    """A memory as it is after a change."""

    message: str
    result: FoundMemory


class DeleteAnswer(TypedDict):
    """The memory that is hidden now."""

    deleted: bool
    memory_id: str


class HistoryEntry(TypedDict):
    """One change of a memory."""

    event: str
    old_memory: str | None
    new_memory: str | None
    at: str
    actor_id: NotRequired[str]
    role: NotRequired[str]


class HistoryAnswer(TypedDict):
    """All changes of a memory, oldest first."""

    history: list[HistoryEntry]


class Entity(TypedDict):
    """A user, agent, app or run that has memories."""

    id: str
    type: str
    total_memories: int
    created_at: str
    updated_at: str


class EntitiesAnswer(TypedDict):
    """Who has memories."""

    results: list[Entity]
    has_more: bool


def schema_of(answer: Any) -> dict[str, Any]:
    """The JSON Schema of a tool's answer."""
    schema = TypeAdapter(answer).json_schema(mode="serialization")
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("title", None)
        for field in part.get("properties", {}).values():
            field.pop("title", None)
    return schema


def instant(moment: datetime) -> str:
    """ISO 8601 with offset."""
    return moment.isoformat()


def memory_shape(memory: Memory) -> FoundMemory:
    """One memory."""
    shape: dict[str, Any] = {"id": str(memory.id), "memory": memory.text}
    for name in ("user_id", "agent_id", "app_id", "run_id", "actor_id", "role", "metadata"):
        if value := getattr(memory, name):
            shape[name] = value
    if memory.source:
        shape["source"] = memory.source
    shape |= {"confidence": memory.confidence, "review_status": memory.review_status}
    if memory.expiration_date:
        shape["expiration_date"] = memory.expiration_date.isoformat()
    if memory.expires_at:
        shape["expires_at"] = instant(memory.expires_at)
    shape["created_at"] = instant(memory.created_at)
    shape["updated_at"] = instant(memory.updated_at)
    return shape  # type: ignore[return-value]  # built name by name


def hit_shape(hit: SearchHit) -> FoundMemory:
    """One found memory with its score."""
    shape = memory_shape(hit.memory)
    shape["score"] = hit.score
    if hit.rerank_score is not None:
        shape["rerank_score"] = hit.rerank_score
    return shape


def revision_shape(revision: Revision) -> HistoryEntry:
    """One entry of a history."""
    shape = HistoryEntry(
        event=revision.event,
        old_memory=revision.old_text,
        new_memory=revision.new_text,
        at=instant(revision.at),
    )
    if revision.actor_id:
        shape["actor_id"] = revision.actor_id
    if revision.role:
        shape["role"] = revision.role
    return shape


def entity_shape(entity: EntityTotals) -> Entity:
    """One user, agent, app or run."""
    return Entity(
        id=entity["id"],
        type=entity["type"],
        total_memories=entity["total_memories"],
        created_at=instant(entity["created_at"]),
        updated_at=instant(entity["updated_at"]),
    )
