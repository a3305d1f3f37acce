"""What tests of the memory engine do again and again."""

from typing import Any
from uuid import UUID

from django.db.models import F

from memories.adding import service as adding
from memories.engine.engine import Engine
from memories.filters import EVERYTHING
from memories.models import Memory


def add(owner: Any, *texts: str, user_id: str = "alice", **options: Any) -> list[UUID]:
    """Stores the texts word for word in one add; their ids."""
    added = adding.add_memories(
        owner,
        messages=[{"role": "user", "content": text} for text in texts],
        entities={"user_id": user_id, **options.pop("entities", {})},
        **options,
    )
    return [UUID(one["id"]) for one in added.results]


def settled(engine: Any) -> None:
    """The index has everything, on disk, and SQL knows."""
    engine.indexer.drain()
    engine.indexer.settle()


def pending() -> int:
    return Memory.objects.filter(rev__gt=F("indexed_rev")).count()


def said(index: Any, query: str, where: Any = EVERYTHING) -> set[UUID]:
    """What the index finds by words."""
    return {id_ for id_, _ in index.search_text(query, limit=1000, where=where)}


def meant(index: Any, embedder: Any, text: str) -> list[UUID]:
    """What the index finds by meaning."""
    [vector] = Engine(embedder).embed([text])
    return [id_ for id_, _ in index.search(vector, limit=1000, where=EVERYTHING)]
