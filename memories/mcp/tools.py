"""The tools: each parses its arguments, calls a door, and shapes the answer.

What a caller may do is decided by the doors. `scope` says which scope that will take, for who can
ask for more of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mcp_types import Tool, ToolAnnotations

from core import limits
from core.errors import InvalidInputError
from core.principal import Principal, Scope
from memories import queries
from memories.adding import service as adding
from memories.editing import service as editing
from memories.editing.service import UNSET
from memories.filters import AllOf, Comparison, Node, parse_filters
from memories.filters.language import names_an_entity
from memories.mcp import arguments, shapes
from memories.mcp.arguments import Arguments
from memories.review import service as review
from memories.search import service as search
from memories.search import substring
from memories.texts import entity_id

A = TypeVar("A", bound=Arguments)
Function = Callable[[Principal, A], Any]

NOBODY: Final = (
    "Name a user_id, app_id or run_id: this project has no default user. "
    "list_entities shows which there are."
)
BY_WORDS: Final = "Found by words alone: the embedding model does not answer, so there may be more."
NOTHING_NEW: Final = "There was nothing new to remember in this."
KNOWN: Final = "The same is stored already; update that memory if it has changed."


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool: what it takes, what it does, what scope that takes."""

    function: Callable[[Principal, Any], Any]
    arguments: type[Arguments]
    scope: Scope
    definition: Tool

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.scope is Scope.READ


TOOLS: Final[dict[str, ToolSpec]] = {}


def _tool(
    title: str,
    takes: type[A],
    answer: Any,
    scope: Scope,
    *,
    destroys: bool = False,
    idempotent: bool = False,
) -> Callable[[Function[A]], Function[A]]:
    """Makes a function a tool of its name; its docstring is what agents read."""

    def register(function: Function[A]) -> Function[A]:
        reads = scope is Scope.READ
        TOOLS[function.__name__] = ToolSpec(
            function,
            takes,
            scope,
            Tool(
                name=function.__name__,
                title=title,
                description=" ".join((function.__doc__ or "").split()),
                input_schema=arguments.schema_of(takes),
                output_schema=shapes.schema_of(answer),
                annotations=ToolAnnotations(
                    title=title,
                    read_only_hint=reads,
                    destructive_hint=destroys,
                    idempotent_hint=reads or idempotent,
                    open_world_hint=False,
                ),
            ),
        )
        return function

    return register


@_tool("Search memories", arguments.SearchMemories, shapes.SearchAnswer, Scope.READ)
def search_memories(principal: Principal, given: arguments.SearchMemories) -> shapes.SearchAnswer:
    """Find memories about something, best first. Search before you answer what may depend on the
    user's preferences, history, people or projects, and before you add, so that you update instead
    of storing twice. An empty result means that nothing is stored about it."""
    where = _where(principal, given)
    if given.mode == "keyword":
        rows = substring.find(
            principal,
            given.query,
            where=where,
            limit=given.limit,
            show_expired=given.show_expired,
        )
        return {"results": [shapes.memory_shape(row) for row in rows], "mode": "keyword"}
    found = search.search_memories(
        principal,
        given.query,
        where=where,
        top_k=given.limit,
        threshold=given.threshold,
        show_expired=given.show_expired,
        recency=search.Recency(given.recency_weight, given.recency_half_life_days),
    )
    answer = shapes.SearchAnswer(
        results=[shapes.hit_shape(hit) for hit in found.hits], mode=found.mode
    )
    if found.problem:
        answer["note"] = BY_WORDS
    return answer


@_tool("Remember something", arguments.AddMemory, shapes.AddAnswer, Scope.WRITE)
def add_memory(principal: Principal, given: arguments.AddMemory) -> shapes.AddAnswer:
    """Store a durable fact: a preference, a decision, a person, a deadline, a lesson learned. Give
    it as one sentence that stands by itself, with names and dates in place of "he" and "tomorrow".
    Never store passwords, keys or other secrets. What is stored already is not stored again."""
    messages = given.said()
    limits.check_messages(messages)
    entities = {
        "user_id": given.user_id or principal.project.default_user_id or None,
        "agent_id": given.agent_id,
        "app_id": given.app_id,
        "run_id": given.run_id,
    }
    if not any(entities.values()):
        raise InvalidInputError(NOBODY)
    added = adding.add_memories(
        principal,
        messages=messages,
        entities=entities,
        metadata=given.metadata,
        expiration_date=given.expiration_date,
        infer=given.infer,
        dedup=True,
    )
    answer = shapes.AddAnswer(
        results=[
            {"id": str(row["id"]), "memory": row["memory"], "event": row["event"]}
            for row in added.results
        ],
        stored=added.stored,
    )
    if added.duplicate_of is not None:
        answer |= {"deduplicated": True, "memory_id": str(added.duplicate_of), "note": KNOWN}
    elif not added.results:
        answer["note"] = NOTHING_NEW
    return answer


@_tool("List memories", arguments.ListMemories, shapes.ListAnswer, Scope.READ)
def list_memories(principal: Principal, given: arguments.ListMemories) -> shapes.ListAnswer:
    """List memories, newest first. Use search_memories to find something; list to see what there
    is. `pagination.has_more` says whether a larger offset shows more."""
    return _page(principal, given, given.limit, given.offset)


@_tool("List memories by page", arguments.GetMemories, shapes.ListAnswer, Scope.READ)
def get_memories(principal: Principal, given: arguments.GetMemories) -> shapes.ListAnswer:
    """List memories, newest first, page by page. The same as list_memories, for clients that count
    in pages."""
    return _page(principal, given, given.page_size, (given.page - 1) * given.page_size)


@_tool("Get one memory", arguments.OneMemory, shapes.FoundMemory, Scope.READ)
def get_memory(principal: Principal, given: arguments.OneMemory) -> shapes.FoundMemory:
    """Get one memory by its id, whatever its review status or expiry."""
    return shapes.memory_shape(queries.get_memory(principal, given.memory_id))


@_tool(
    "Change a memory",
    arguments.UpdateMemory,
    shapes.UpdateAnswer,
    Scope.WRITE,
    destroys=True,
    idempotent=True,
)
def update_memory(principal: Principal, given: arguments.UpdateMemory) -> shapes.UpdateAnswer:
    """Change a memory that has become wrong or incomplete: its text, its metadata or its expiry.
    Prefer this to adding a second memory about the same. The history keeps the old text."""
    memory = editing.update_memory(
        principal,
        given.memory_id,
        text=given.new_text(),
        metadata=given.metadata,
        expiration_date=UNSET if given.expiration_date is None else given.expiration_date,
    )
    return {"message": "Memory updated successfully!", "result": shapes.memory_shape(memory)}


@_tool(
    "Delete one memory",
    arguments.OneMemory,
    shapes.DeleteAnswer,
    Scope.WRITE,
    destroys=True,
    idempotent=True,
)
def delete_memory(principal: Principal, given: arguments.OneMemory) -> shapes.DeleteAnswer:
    """Delete one memory, when the user asks you to forget it or it is wrong. It is hidden at once;
    a reviewer can restore it for a while."""
    editing.delete_memory(principal, given.memory_id)
    return {"deleted": True, "memory_id": given.memory_id}


@_tool("History of a memory", arguments.OneMemory, shapes.HistoryAnswer, Scope.READ)
def memory_history(principal: Principal, given: arguments.OneMemory) -> shapes.HistoryAnswer:
    """Everything that happened to one memory, oldest first, deletions included. Empty for an id
    that was never there."""
    rows = queries.history(principal, given.memory_id)
    return {"history": [shapes.revision_shape(row) for row in rows]}


@_tool("List who has memories", arguments.ListEntities, shapes.EntitiesAnswer, Scope.READ)
def list_entities(principal: Principal, given: arguments.ListEntities) -> shapes.EntitiesAnswer:
    """List the users, agents, apps and runs that have memories, with how many. Their ids narrow
    the other tools."""
    found = queries.list_entities(principal)
    shown = [shapes.entity_shape(entity) for entity in found[: given.limit]]
    return {"results": shown, "has_more": len(found) > len(shown)}


@_tool(
    "Review a memory",
    arguments.ReviewMemory,
    shapes.UpdateAnswer,
    Scope.REVIEW,
    idempotent=True,
)
def review_memory(principal: Principal, given: arguments.ReviewMemory) -> shapes.UpdateAnswer:
    """Set what a reviewer thinks of one memory: its status, its confidence. Rejected memories are
    hidden from searches and lists. Only when the user asks for it."""
    given.check()
    memory = None
    if given.status is not None:
        memory = review.set_review(principal, given.memory_id, given.status)
    if given.confidence is not None:
        memory = review.set_confidence(principal, given.memory_id, given.confidence)
    assert memory is not None  # noqa: S101  (one of them was given)
    return {"message": "Memory reviewed.", "result": shapes.memory_shape(memory)}


def _page(
    principal: Principal, given: arguments._Scoped, limit: int, offset: int
) -> shapes.ListAnswer:
    rows = queries.list_memories(
        principal,
        where=_where(principal, given),
        limit=limit + 1,
        offset=offset,
        show_expired=given.show_expired,
    )
    page = shapes.Pagination(limit=limit, offset=offset, has_more=len(rows) > limit)
    return {"results": [shapes.memory_shape(row) for row in rows[:limit]], "pagination": page}


def _where(principal: Principal, given: arguments._Scoped) -> Node:
    """Which memories a read is about: the ids and filters that it names, and the project's default
    user where no id is among them. InvalidInputError where there is none."""
    ids = {"user_id": given.user_id, "app_id": given.app_id, "run_id": given.run_id}
    parts: list[Node] = [
        Comparison(name, "eq", entity_id(value, name))
        for name, value in ids.items()
        if value is not None
    ]
    if given.filters:
        parts.append(parse_filters(given.filters))
    where: Node = AllOf(tuple(parts))
    if names_an_entity(where):
        return where
    default = principal.project.default_user_id
    if not default:
        raise InvalidInputError(NOBODY)
    return AllOf((where, Comparison("user_id", "eq", default)))


def scope_of(method: str, params: Mapping[str, Any]) -> Scope | None:
    """The scope that a request of the protocol takes; None for those that any caller may send."""
    if method == "tools/call":
        spec = TOOLS.get(str(params.get("name")))
        return spec.scope if spec else None
    return Scope.READ if method == "resources/read" else None
