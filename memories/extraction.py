"""Adds through an LLM: mem0 extracts the facts, our store keeps them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from django.db import transaction

from mem0dash.errors import Mem0dashError, ProviderError
from mem0dash.principal import Principal
from memories import ingest, purge, queries, records, runtime
from memories.filters import AllOf, Condition, pushdown
from memories.ingest import Results
from memories.models import AddInput, Memory
from memories.records import Draft, Vector


def store_extracted(
    principal: Principal,
    messages: Sequence[Mapping[str, Any]],
    template: Draft,
    kept: AddInput,
    *,
    prompt: str | None,
) -> Results:
    """Stores what the LLM finds worth remembering in `messages`; the answer's results.

    `template` gives entities, metadata and expiry to every memory. ProviderError when the LLM or
    the embedder fails.
    """
    # Imported here: mem0 takes a second to import, and an installation without an LLM never does.
    from memories.engine.mem0_adapter import EngineMemory, Extracted, HistoryAdapter, RecordStore

    current = runtime.current()
    stored: list[Memory] = []
    results: Results = []

    def write(found: list[Extracted]) -> None:
        drafts = [
            replace(
                template,
                id=item.id,
                text=item.text,
                attributed_to=item.attributed_to,
                memory_type=item.memory_type or template.memory_type,
            )
            for item in found
        ]
        rows = records.build(drafts, principal=principal, batch_id=kept.pk)
        vectors = [item.vector for item in found]
        added = [{"id": str(row.id), "memory": row.text, "event": "ADD"} for row in rows]
        with transaction.atomic():
            records.insert(rows, vectors, current.engine.model_key, principal=principal)
            ingest.finish(kept, [*results, *added])
        stored.extend(rows)
        results.extend(added)

    entities = template.entities
    scope = purge.message_scope(*(entities.get(n, "") for n in ("user_id", "agent_id", "run_id")))
    memory = EngineMemory(
        engine=current.engine,
        store=RecordStore(write, _finder(principal, entities)),
        history=HistoryAdapter(principal.project.id, scope),
    )
    try:
        memory.add(
            [dict(message) for message in messages],
            user_id=entities.get("user_id"),
            agent_id=entities.get("agent_id"),
            run_id=entities.get("run_id") or entities.get("app_id"),
            memory_type=template.memory_type or None,
            prompt=prompt,
        )
    except Mem0dashError:
        raise
    except Exception as error:
        raise ProviderError("The LLM could not extract memories.") from error
    if not stored:
        ingest.finish(kept, [])
    current.apply(stored)
    return results


def _finder(
    principal: Principal, entities: Mapping[str, str]
) -> Callable[[Vector | None, int], list[tuple[Memory, float]]]:
    """Finds the nearest memories of the same entities, re-checked in SQL."""
    named = tuple(Condition(name, "eq", value) for name, value in entities.items())

    def find(vector: Vector | None, limit: int) -> list[tuple[Memory, float]]:
        rows = queries.visible(principal, AllOf(named))
        if vector is None:
            return [(row, 0.0) for row in rows.order_by("-created_at")[:limit]]
        project = Condition("project", "in", (str(principal.project.id),))
        where, _ = pushdown(AllOf((project, *named)))
        hits = runtime.current().index.search(vector, limit=limit, where=where)
        found = {row.id: row for row in rows.filter(id__in=[id_ for id_, _ in hits])}
        return [(found[id_], score) for id_, score in hits if id_ in found]

    return find
