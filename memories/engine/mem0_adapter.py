"""mem0's own pipeline on our store.

`mem0.Memory` runs unmodified; the parts that it would build by itself (vector store, history
database) are passed in. One adapter serves one add, and its parts know whose add it is.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

from mem0 import Memory as Mem0Memory
from mem0.configs.base import MemoryConfig
from mem0.vector_stores.base import VectorStoreBase

from core.errors import Mem0dashError
from memories.engine.engine import Engine
from memories.models import Memory, SessionMessage
from memories.readings import Reading, TokenStates, Vector

KEPT_MESSAGES: Final = 10


@dataclass(frozen=True, slots=True)
class ExtractedMemory:
    """A memory that mem0 wants stored."""

    id: UUID
    text: str
    reading: Reading
    attributed_to: str
    memory_type: str


Write = Callable[[list[ExtractedMemory]], None]
Find = Callable[[Vector | None, int], list[tuple[Memory, float]]]


class AddAbandonedError(BaseException):
    """Embedding or storing failed in the middle of an add; `__cause__` is the failure.

    Not an Exception, because mem0 catches those, continues without the memory and reports success.
    """


class RecordStore(VectorStoreBase):  # type: ignore[misc]  # mem0 publishes no types
    """mem0's vector store, where the rows are the truth and the index follows.

    `write` stores the extracted memories with vectors and revisions in one transaction, all or (if
    it raises) none. `find` returns the nearest memories in the scope of the add.
    """

    def __init__(self, write: Write, find: Find) -> None:
        self._write, self._find = write, find
        # Token states by text, because mem0 passes on nothing but vectors.
        self.read: dict[str, TokenStates | None] = {}

    def insert(self, vectors: Any, payloads: Any = None, ids: Any = None) -> None:
        extracted = [
            ExtractedMemory(
                id=UUID(id_),
                text=payload["data"],
                reading=Reading(vector, self.read.get(payload["data"])),
                attributed_to=str(payload.get("attributed_to") or ""),
                memory_type=payload.get("memory_type") or "",
            )
            for id_, vector, payload in zip(ids, vectors, payloads, strict=True)
        ]
        try:
            self._write(extracted)
        except Exception as error:
            # Not an Exception, or mem0 would insert again, row by row.
            raise AddAbandonedError from error

    def search(self, query: Any, vectors: Any, top_k: int = 5, filters: Any = None) -> list[Any]:
        return [_record(memory, score) for memory, score in self._find(vectors, top_k)]

    def keyword_search(self, query: str, top_k: int = 5, filters: Any = None) -> None:
        """Returns None, as mem0 allows: an add looks for neighbours by meaning alone."""

    def get(self, vector_id: str) -> Any:
        memory = Memory.objects.filter(id=vector_id, deleted_at=None).first()
        return _record(memory, None) if memory else None

    def list(self, filters: Any = None, top_k: int | None = None) -> list[list[Any]]:
        return [[_record(memory, score) for memory, score in self._find(None, top_k or 100)]]

    def list_cols(self) -> Sequence[str]:
        return ["memories"]

    def col_info(self) -> dict[str, Any]:
        return {"name": "memories"}

    def create_col(self, name: Any, vector_size: Any, distance: Any) -> None:
        """The tables exist already."""

    def update(self, vector_id: str, vector: Any = None, payload: Any = None) -> None:
        raise PermissionError("Changes go through memories.editing, which authorises them.")

    def delete(self, vector_id: str) -> None:
        raise PermissionError("Deletions go through memories.editing, which authorises them.")

    def delete_col(self) -> None:
        raise PermissionError("Deletions go through memories.editing, which authorises them.")

    def reset(self) -> None:
        raise PermissionError("Deletions go through memories.editing, which authorises them.")


def _record(memory: Memory, score: float | None) -> SimpleNamespace:
    """A row as mem0 expects a stored point."""
    payload = {
        "data": memory.text,
        "hash": hashlib.md5(memory.text.encode(), usedforsecurity=False).hexdigest(),
    }
    return SimpleNamespace(id=str(memory.id), score=score, payload=payload)


class HistoryAdapter:
    """mem0's history database: revisions are written with the row, messages are stored per
    scope."""

    def __init__(self, project_id: UUID, scope: str) -> None:
        self._messages = SessionMessage.objects.filter(project_id=project_id, scope=scope)
        self._project_id, self._scope = project_id, scope

    def add_history(self, *args: Any, **kwargs: Any) -> None:
        """The revision is in the row's transaction already."""

    def batch_add_history(self, records: Any) -> None:
        """As `add_history`."""

    def get_last_messages(self, session_scope: str, limit: int = KEPT_MESSAGES) -> list[Any]:
        newest = self._messages.order_by("-id").values("role", "content", "name")[:limit]
        return [*reversed(newest)]

    def save_messages(self, messages: Any, session_scope: str) -> None:
        SessionMessage.objects.bulk_create(
            SessionMessage(
                project_id=self._project_id,
                scope=self._scope,
                role=str(message.get("role") or "")[:50],
                content=str(message.get("content") or ""),
                name=str(message.get("name") or "")[:255],
            )
            for message in messages
        )
        latest = self._messages.order_by("-id").values("id")[:KEPT_MESSAGES]
        self._messages.exclude(id__in=[row["id"] for row in latest]).delete()

    def close(self) -> None:
        """Django owns the connection."""


class _Embeddings:
    """Our embedder behind mem0's interface."""

    def __init__(self, engine: Engine, read: dict[str, TokenStates | None]) -> None:
        self._engine, self._read = engine, read

    def embed(self, text: str, memory_action: str | None = None) -> Any:
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: Sequence[str], memory_action: str = "add") -> list[Any]:
        try:
            readings = self._engine.read(texts)
        except Mem0dashError as error:
            raise AddAbandonedError from error
        self._read.update((text, one.tokens) for text, one in zip(texts, readings, strict=True))
        return [one.vector for one in readings]


class EngineMemory(Mem0Memory):  # type: ignore[misc]  # mem0 publishes no types
    """`mem0.Memory` with its parts passed in. It opens nothing and sends no telemetry."""

    def __init__(
        self,
        *,
        engine: Engine,
        store: RecordStore,
        history: HistoryAdapter,
        instructions: str | None = None,
    ) -> None:
        self.config = MemoryConfig(custom_instructions=instructions)
        self.embedding_model = _Embeddings(engine, store.read)
        self.llm = engine.llm
        self.vector_store = store
        self.db = history
        self.collection_name = "memories"
        self.api_version = "v1.1"
        self.custom_instructions = instructions
        self.reranker = None
        # Entity links are mem0's own second index; entities are columns here.
        self._entity_store = None
