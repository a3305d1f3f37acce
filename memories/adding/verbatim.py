"""Adds word for word: one memory for each message."""

from dataclasses import replace
from uuid import uuid4

from django.db import transaction

from core.principal import Principal
from memories import runtime
from memories.adding.idempotency import AddRequest, Claim, Results
from memories.storage.rows import build_memories, insert_memories, text_to_embed


def store_verbatim(principal: Principal, request: AddRequest, claim: Claim) -> Results:
    """Stores each non-system message, embedded in one batch; returns the results of the answer.
    EngineError if the embedder fails; nothing is stored then."""
    current = runtime.get_runtime()
    engine, template = current.engine, request.template
    drafts = [
        replace(
            template,
            id=uuid4(),
            text=message["content"],
            role=str(message.get("role") or ""),
            actor_id=str(message.get("name") or ""),
        )
        for message in request.messages
        if message.get("role") != "system"
    ]
    memories = build_memories(drafts, principal=principal, batch_id=claim.kept.pk)
    keys = (engine.model_key, engine.states_key)
    readings = engine.read([text_to_embed(memory) for memory in memories])
    results: Results = [
        {
            "id": str(memory.id),
            "memory": memory.text,
            "event": "ADD",
            "actor_id": memory.actor_id or None,
            "role": memory.role,
        }
        for memory in memories
    ]
    with transaction.atomic():
        insert_memories(memories, readings, *keys, principal=principal)
        claim.finish(results)
    current.apply(memories)
    return results
