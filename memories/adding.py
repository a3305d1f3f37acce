"""Adds: what was said becomes memories, word for word or as an LLM understands it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from django.db import transaction

from mem0dash.errors import ConflictError, InvalidInputError, NotFoundError, PermissionDeniedError
from mem0dash.principal import Principal, Scope
from memories import ingest, records, runtime
from memories.extraction import store_extracted
from memories.filters import entity_id
from memories.ingest import AddRequest, Results
from memories.models import ENTITY_FIELDS, AddInput
from memories.records import Draft

logger = logging.getLogger(__name__)

CONVERSATIONAL: Final = "conversational"
PROCEDURAL: Final = "procedural_memory"
IDEMPOTENCY_KEY_LENGTH: Final = 255


@dataclass(frozen=True, slots=True)
class Added:
    """What an add answers. `stored` says whether texts were kept word for word or extracted."""

    results: Results
    stored: Literal["verbatim", "extracted"]


def add_memories(
    principal: Principal,
    *,
    messages: Sequence[Mapping[str, Any]],
    entities: Mapping[str, str | None],
    metadata: Mapping[str, Any] | None = None,
    expiration_date: date | None = None,
    infer: bool = True,
    memory_type: str | None = None,
    prompt: str | None = None,
    collection: str = CONVERSATIONAL,
    idempotency_key: str = "",
) -> Added:
    """Stores messages ({role, content, name?}) as memories of the named entities.

    With an LLM and `infer`, what it extracts; else one memory for each non-system message, word for
    word. One transaction; the metadata is echoed unchanged, valid provenance in it is promoted.
    Identical requests in flight store once and get the same answer, and so does a later one with
    the same `idempotency_key`. Raises InvalidInputError, PermissionDeniedError (scope `write`, or
    an id outside the entity limit), ConflictError (the key was used for something else), and
    EngineError when the embedder or the LLM fails: then the input is kept as a failed add.
    """
    principal.require(Scope.WRITE)
    chosen = _writable_entities(principal, entities, adopted_app(metadata or {}))
    _check(messages, memory_type, prompt, idempotency_key)
    if memory_type == PROCEDURAL and infer and "agent_id" not in chosen:
        raise InvalidInputError("A procedural memory needs an agent_id.")
    if all(message.get("role") == "system" for message in messages):
        return Added([], "verbatim")
    options = {
        "entities": chosen,
        "metadata": dict(metadata or {}),
        "expiration_date": expiration_date.isoformat() if expiration_date else None,
        "infer": infer,
        "memory_type": memory_type,
        "prompt": prompt,
        "collection": collection,
    }
    extracts = infer and runtime.current().engine.llm is not None
    notes = {"scopes": sorted(principal.scopes), "extracts": extracts}
    request = AddRequest([dict(message) for message in messages], options, idempotency_key, notes)
    if infer and not extracts:
        who = {"project": principal.project.slug, "key": principal.key_prefix}
        logger.info("no LLM is configured: stored word for word", extra=who)
    work = _work_of(principal, request, extracts=extracts)
    return Added(ingest.run_once(request, principal, work), _stored(extracts))


def retry_add(principal: Principal, input_id: UUID) -> Added:
    """Tries a failed add of the project again, with what was kept of it; scope `admin`.

    It may do no more than who sent it might. NotFoundError when there is none; ConflictError when
    it has not failed, when its input is gone, when an identical request was stored since, or when
    it wants an LLM and there is none any more; errors as `add_memories`, and then it stays failed.
    """
    principal.require(Scope.ADMIN)
    kept = AddInput.objects.filter(id=input_id, project_id=principal.project.id).first()
    if kept is None:
        raise NotFoundError(f"There is no add {input_id}.")
    if kept.outcome != AddInput.Outcome.FAILED:
        raise ConflictError(f"The add {input_id} has not failed: it is {kept.outcome}.")
    if not kept.messages:
        raise ConflictError(f"The input of the add {input_id} has been erased.")
    options = dict(kept.options)
    scopes = options.pop("scopes", principal.scopes)
    extracts = options["infer"] and runtime.current().engine.llm is not None
    if options.pop("extracts", False) and not extracts:
        raise ConflictError("No LLM is configured, and this add is to be extracted by one.")
    may = frozenset(scope for scope in principal.scopes if scope in scopes)
    sender = replace(principal, scopes=may)
    request = AddRequest(kept.messages, options)
    work = _work_of(sender, request, extracts=extracts)
    return Added(ingest.run_again(kept, work), _stored(extracts))


def _check(
    messages: Sequence[Mapping[str, Any]],
    memory_type: str | None,
    prompt: str | None,
    idempotency_key: str,
) -> None:
    if memory_type not in (None, PROCEDURAL):
        raise InvalidInputError(
            f"Invalid 'memory_type'. Please pass {PROCEDURAL} to create procedural memories."
        )
    for message in messages:
        said = str(message.get("content") or "").strip()
        if message.get("role") != "system" and not said:
            raise InvalidInputError("A message cannot be empty or whitespace-only.")
    if len(idempotency_key) > IDEMPOTENCY_KEY_LENGTH or "\0" in idempotency_key:
        raise InvalidInputError(
            f"An Idempotency-Key has at most {IDEMPOTENCY_KEY_LENGTH} characters."
        )


def _stored(extracts: bool) -> Literal["verbatim", "extracted"]:
    return "extracted" if extracts else "verbatim"


def _work_of(
    principal: Principal, request: AddRequest, *, extracts: bool
) -> Callable[[AddInput], Results]:
    """What stores the request."""
    options = request.options
    template = Draft(
        text="",
        entities=options["entities"],
        metadata=options["metadata"],
        memory_type=options["memory_type"] or "",
        expiration_date=(
            date.fromisoformat(options["expiration_date"]) if options["expiration_date"] else None
        ),
        collection=options["collection"],
    )

    def work(kept: AddInput) -> Results:
        if extracts:
            return store_extracted(
                principal, request.messages, template, kept, prompt=options["prompt"]
            )
        return _store_verbatim(principal, request.messages, template, kept)

    return work


def _store_verbatim(
    principal: Principal, messages: Sequence[Mapping[str, Any]], template: Draft, kept: AddInput
) -> Results:
    """One memory for each message, embedded in one batch."""
    current = runtime.current()
    engine = current.engine
    drafts = [
        replace(
            template,
            id=uuid4(),
            text=message["content"],
            role=str(message.get("role") or ""),
            actor_id=str(message.get("name") or ""),
        )
        for message in messages
        if message.get("role") != "system"
    ]
    memories = records.build(drafts, principal=principal, batch_id=kept.pk)
    vectors = engine.embed([records.embedded_text(memory) for memory in memories])
    with transaction.atomic():
        records.insert(memories, vectors, engine.model_key, principal=principal)
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
        ingest.finish(kept, results)
    current.apply(memories)
    return results


def _writable_entities(
    principal: Principal, entities: Mapping[str, str | None], adopted: str | None
) -> dict[str, str]:
    """The checked ids of a write; the project's default user where none is named."""
    chosen = {name: entity_id(v, name) for name, v in entities.items() if v is not None}
    if not chosen and principal.project.default_user_id:
        chosen = {"user_id": principal.project.default_user_id}
    if not any(name in chosen for name in ENTITY_FIELDS):
        raise InvalidInputError("At least one identifier (user_id, agent_id, run_id) is required.")
    if adopted is not None:
        # Beside an identifier, never instead of one: to those clients it is plain metadata.
        chosen.setdefault("app_id", adopted)
    for name in principal.entity_limit or {}:
        if not principal.may_use(name, chosen.get(name, "")):
            raise PermissionDeniedError(f"This credential may not write for this {name}.")
    return chosen


def adopted_app(metadata: Mapping[str, Any]) -> str | None:
    """`metadata.app_id`, where clients without an app field of their own keep it."""
    value = metadata.get("app_id")
    if not isinstance(value, str):
        return None
    try:
        return entity_id(value, "app_id")
    except InvalidInputError:
        return None  # not usable as an id: it stays plain metadata


def failed_adds(principal: Principal) -> list[AddInput]:
    """The project's failed adds that wait for another attempt, oldest first; scope `admin`.

    Their input is still there, and nobody has sent the same again with success; of identical ones
    only the first is to be stored.
    """
    principal.require(Scope.ADMIN)
    rows = AddInput.objects.filter(
        project_id=principal.project.id, outcome=AddInput.Outcome.FAILED
    ).exclude(messages=[])
    failed = list(rows.order_by("created_at"))
    done = ingest.superseded(failed)
    first = {kept.digest or kept.pk.hex: kept for kept in reversed(failed) if kept.pk not in done}
    return sorted(first.values(), key=lambda kept: kept.created_at)
