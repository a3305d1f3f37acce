"""Adds word for word: one memory for each message."""

from dataclasses import replace
from uuid import uuid4

from django.db import transaction

from core.principal import Principal
from memories import runtime
from memories.adding.idempotency import AddRequest, Claim, Results
from memories.storage import rows as records


def store_verbatim(principal: Principal, request: AddRequest, claim: Claim) -> Results:
    """Stores each message that is not the system's, embedded in one batch; the answer's results.
    EngineError when the embedder fails: then nothing is stored."""
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
    memories = records.build_memories(drafts, principal=principal, batch_id=claim.kept.pk)
    keys = (engine.model_key, engine.states_key)
    readings = engine.read([records.text_to_embed(memory) for memory in memories])
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
        records.insert_memories(memories, readings, *keys, principal=principal)
        claim.finish(results)
    current.apply(memories)
    return results
