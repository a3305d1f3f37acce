"""One memory with all that explains it: its history, where it came from, what is like it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np

from core.errors import EngineError, NotFoundError
from core.principal import Principal, Scope
from memories import retrievals, runtime, visibility
from memories.filters import AllOf, Comparison, pushdown
from memories.models import AddInput, Memory, MemoryVector, Revision
from memories.retrievals import Retrieval
from memories.search.candidates import CandidateReader

SIMILAR: Final = 5
# So many are asked of the index, some of which SQL may refuse.
_ASKED: Final = 4 * SIMILAR
_NOBODY: Final[Mapping[str, str]] = {
    "admin_api_key": "ADMIN_API_KEY",
    "auth_disabled": "anyone (AUTH_DISABLED)",
    "internal": "the server",
}


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A revision, and in words who made it."""

    revision: Revision
    actor: str


@dataclass(frozen=True, slots=True)
class SimilarMemory:
    """A memory near another; `score` is the cosine of their vectors (-1..1)."""

    memory: Memory
    score: float


@dataclass(frozen=True, slots=True)
class MemoryDetail:
    """One memory; `history` newest first, at most SIMILAR `similar` ones, nearest first, the
    `messages` of the add that brought it, [] when they are gone, and how often searches gave it to
    agents, None for never."""

    memory: Memory
    history: list[HistoryEntry]
    similar: list[SimilarMemory]
    messages: list[dict[str, Any]]
    retrieval: Retrieval | None


def get_detail(principal: Principal, memory_id: str | UUID) -> MemoryDetail:
    """The memory with its history, its origin and what is like it; also a deleted one that can
    still be restored, for who may review.

    `similar` comes from its stored vector, never from a model: it is empty while the index does not
    answer. Scope `read`; NotFoundError when missing or foreign.
    """
    principal.require(Scope.READ)
    memory = _found(principal, memory_id)
    return MemoryDetail(
        memory,
        _history(principal, memory),
        _similar(principal, memory),
        _messages(memory),
        retrievals.of([memory.id]).get(memory.id),
    )


def _found(principal: Principal, memory_id: str | UUID) -> Memory:
    uuid = visibility.as_uuid(memory_id)
    row = visibility.filter_reachable(principal).filter(id=uuid).first()
    if row is None and Scope.REVIEW in principal.scopes:
        row = visibility.filter_restorable(principal).filter(id=uuid).first()
    if row is None:
        raise NotFoundError(f"Memory with id {memory_id} not found")
    return row


def _history(principal: Principal, memory: Memory) -> list[HistoryEntry]:
    rows = Revision.objects.filter(project_id=principal.project.id, memory_id=memory.id)
    newest_first = rows.select_related("account").order_by("-at", "-id")
    tells_key = Scope.ADMIN in principal.scopes
    return [
        HistoryEntry(revision, _actor(revision, tells_key=tells_key)) for revision in newest_first
    ]


def _actor(revision: Revision, *, tells_key: bool) -> str:
    """Such as "Alice", "Alice with key m0sk_ab12", "the server". Which key it was is for
    administrators, as on the page Activity; an e-mail address is for nobody here."""
    account = revision.account
    name = (account.name or "somebody") if account else ""
    key = ""
    if revision.key_prefix:
        key = f"key {revision.key_prefix}" if tells_key else "an API key"
    if name:
        return f"{name} with {key}" if key else name
    return key or _NOBODY.get(revision.via, "a deleted account")


def _messages(memory: Memory) -> list[dict[str, Any]]:
    if memory.batch_id is None:
        return []
    add_input = AddInput.objects.filter(project_id=memory.project_id, id=memory.batch_id).first()
    messages = add_input.messages if add_input is not None else []
    return [message for message in messages if isinstance(message, dict)]


def _similar(principal: Principal, memory: Memory) -> list[SimilarMemory]:
    try:
        engine, index = runtime.get_runtime().pair()
        stored = MemoryVector.objects.filter(memory_id=memory.id, model_key=engine.model_key)
        row = stored.first() if engine.model_key else None
        if row is None or row.dims != index.dims:
            return []
        where, _ = pushdown(
            AllOf(
                (
                    Comparison("project", "in", (str(principal.project.id),)),
                    visibility.limit_of(principal),
                )
            )
        )
        vector = np.frombuffer(bytes(row.data), dtype="<f4")
        with runtime.get_runtime().briefly():
            hits = index.search(vector, limit=_ASKED, where=where)
    except EngineError:
        return []
    others = [(id_, score) for id_, score in hits if id_ != memory.id]
    rows = CandidateReader(visibility.filter_reachable(principal)).memories(
        [id_ for id_, _ in others]
    )
    near: Sequence[SimilarMemory] = [
        SimilarMemory(rows[i], score) for i, score in others if i in rows
    ]
    return list(near[:SIMILAR])
