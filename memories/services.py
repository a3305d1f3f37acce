"""Writes: each one authorises, writes rows, vectors and revisions in one transaction, and then
shows the index."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from mem0dash.errors import ConflictError, InvalidInputError, NotFoundError, PermissionDeniedError
from mem0dash.principal import Principal, Scope
from memories import ingest, purge, queries, records, runtime
from memories.extraction import store_extracted
from memories.filters import Node, entity_id, to_q
from memories.ingest import AddRequest, Results
from memories.models import (
    ENTITY_FIELDS,
    AddInput,
    Memory,
    MemoryVector,
    Revision,
)
from memories.records import Draft, Vector

logger = logging.getLogger(__name__)

CONVERSATIONAL: Final = "conversational"
PROCEDURAL: Final = "procedural_memory"
BATCH: Final = 500
UPDATE_ATTEMPTS: Final = 5


class Unset:
    """Marks an argument that was not given, where None means "clear it"."""


UNSET: Final = Unset()


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
) -> Added:
    """Stores messages ({role, content, name?}) as memories of the named entities.

    With an LLM and `infer`, what it extracts; else one memory for each non-system message, word for
    word. One transaction; the metadata is echoed unchanged, valid provenance in it is promoted.
    Identical requests in flight store once and get the same answer. Raises InvalidInputError,
    PermissionDeniedError (scope `write`, or an id outside the entity limit), and EngineError when
    the embedder or the LLM fails: then the input is kept as a failed add.
    """
    principal.require(Scope.WRITE)
    chosen = _writable_entities(principal, entities, _adopted_app(metadata or {}))
    if memory_type not in (None, PROCEDURAL):
        raise InvalidInputError(
            f"Invalid 'memory_type'. Please pass {PROCEDURAL} to create procedural memories."
        )
    kept = [dict(message) for message in messages if message.get("role") != "system"]
    for message in kept:
        if not str(message.get("content") or "").strip():
            raise InvalidInputError("A message cannot be empty or whitespace-only.")
    if not kept:
        return Added([], "verbatim")
    metadata = dict(metadata or {})
    if infer and runtime.current().engine.llm is None:
        logger.info("no LLM is configured: stored word for word", extra=_who(principal))
    options = {
        "entities": chosen,
        "metadata": metadata,
        "expiration_date": expiration_date.isoformat() if expiration_date else None,
        "infer": infer,
        "memory_type": memory_type,
        "prompt": prompt,
        "collection": collection,
    }

    template = Draft(
        text="",
        entities=chosen,
        metadata=metadata,
        memory_type=memory_type or "",
        expiration_date=expiration_date,
        collection=collection,
    )
    extracts = infer and runtime.current().engine.llm is not None

    def work(kept_input: AddInput) -> Results:
        if extracts:
            return store_extracted(principal, messages, template, kept_input, prompt=prompt)
        return _store_verbatim(principal, kept, template, kept_input)

    request = AddRequest(messages=[dict(message) for message in messages], options=options)
    results = ingest.run_once(request, principal, work)
    return Added(results, "extracted" if extracts else "verbatim")


def _store_verbatim(
    principal: Principal, messages: Sequence[Mapping[str, Any]], template: Draft, kept: AddInput
) -> Results:
    """One memory for each message, embedded in one batch."""
    current = runtime.current()
    drafts = [
        replace(
            template,
            id=uuid4(),
            text=message["content"],
            role=str(message.get("role") or ""),
            actor_id=str(message.get("name") or ""),
        )
        for message in messages
    ]
    memories = records.build(drafts, principal=principal, batch_id=kept.pk)
    vectors = current.engine.embed([records.embedded_text(memory) for memory in memories])
    with transaction.atomic():
        records.insert(memories, vectors, current.engine.model_key, principal=principal)
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
    principal: Principal, entities: Mapping[str, str | None], adopted_app: str | None
) -> dict[str, str]:
    """The checked ids of a write; the project's default user where none is named."""
    chosen = {name: entity_id(v, name) for name, v in entities.items() if v is not None}
    if not chosen and principal.project.default_user_id:
        chosen = {"user_id": principal.project.default_user_id}
    if not any(name in chosen for name in ENTITY_FIELDS):
        raise InvalidInputError("At least one identifier (user_id, agent_id, run_id) is required.")
    if adopted_app is not None:
        # Beside an identifier, never instead of one: to those clients it is plain metadata.
        chosen.setdefault("app_id", adopted_app)
    for name in principal.entity_limit or {}:
        if not principal.may_use(name, chosen.get(name, "")):
            raise PermissionDeniedError(f"This credential may not write for this {name}.")
    return chosen


def _adopted_app(metadata: Mapping[str, Any]) -> str | None:
    """`metadata.app_id`, where clients without an app field of their own keep it."""
    value = metadata.get("app_id")
    if not isinstance(value, str):
        return None
    try:
        return entity_id(value, "app_id")
    except InvalidInputError:
        return None  # not usable as an id: it stays plain metadata


def update_memory(
    principal: Principal,
    memory_id: str | UUID,
    *,
    text: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    expiration_date: date | Unset | None = UNSET,
) -> Memory:
    """Changes text, metadata (merged key by key) or expiry, whichever is given.

    Only a new text is embedded. Raises NotFoundError, InvalidInputError, PermissionDeniedError
    (scope `write`), EngineError when the embedder fails: then nothing has changed.
    """
    principal.require(Scope.WRITE)
    if text is None and metadata is None and isinstance(expiration_date, Unset):
        raise InvalidInputError(
            "At least one of text, metadata, or expiration_date must be provided."
        )
    if text is not None and not text.strip():
        raise InvalidInputError("text cannot be empty or whitespace-only.")
    for _ in range(UPDATE_ATTEMPTS):
        seen = queries.find(principal, memory_id)
        vector: Vector | None = None
        if text is not None and text != seen.text:
            [vector] = runtime.current().engine.embed([records.embedded_text(seen, text)])
        with transaction.atomic():
            memory = _locked(principal, seen.id)
            if text is not None and memory.text != seen.text:
                continue  # its text changed while ours was embedded: look again
            _update(memory, principal, vector, text, metadata, expiration_date)
        runtime.current().apply([memory])
        return memory
    raise ConflictError("This memory is being changed by others; try again.")


def _update(
    memory: Memory,
    principal: Principal,
    vector: Vector | None,
    text: str | None,
    metadata: Mapping[str, Any] | None,
    expiration_date: date | Unset | None,
) -> None:
    """Writes the change to the locked row, its vector and its history."""
    before = memory.text
    changes = _change(memory, principal, text, metadata, expiration_date)
    _save(memory, list(changes))
    if memory.text != before:
        _replace_vector(memory, vector, runtime.current().engine.model_key)
    records.revision(
        memory,
        "UPDATE",
        principal,
        old_text=before,
        new_text=memory.text,
        changes={name: change for name, change in changes.items() if name != "text"},
        at=memory.updated_at,
    ).save()


def _locked(principal: Principal, memory_id: UUID) -> Memory:
    row = queries.reachable(principal).select_for_update().filter(id=memory_id).first()
    if row is None:
        raise NotFoundError(f"Memory with id {memory_id} not found")
    return row


def _change(
    memory: Memory,
    principal: Principal,
    text: str | None,
    metadata: Mapping[str, Any] | None,
    expiration_date: date | Unset | None,
) -> dict[str, list[Any]]:
    """Sets the new values on the row; which fields changed, as {field: [before, after]}."""
    values: dict[str, Any] = {}
    if text is not None:
        values["text"] = text
    if metadata is not None:
        given = {k: v for k, v in metadata.items() if k not in records.RESERVED_METADATA}
        values["metadata"] = {**memory.metadata, **given}
        values.update(records.provenance(given, principal))
        if (app_id := _adopted_app(given)) and principal.may_use("app_id", app_id):
            values["app_id"] = app_id
    if not isinstance(expiration_date, Unset):
        values["expiration_date"] = expiration_date
    changes: dict[str, list[Any]] = {}
    for name, value in values.items():
        if (old := getattr(memory, name)) != value:
            changes[name] = [_plain(old), _plain(value)]
            setattr(memory, name, value)
    return changes


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value


def _save(memory: Memory, changed: list[str]) -> None:
    if "text" in changed:
        memory.text_fold = records.fold(memory.text)
        memory.fingerprint = records.fingerprint(memory.text)
        changed += ["text_fold", "fingerprint"]
    memory.updated_at = timezone.now()
    memory.rev += 1
    memory.save(update_fields=[*changed, "updated_at", "rev"])


def _replace_vector(memory: Memory, vector: Vector | None, model_key: str) -> None:
    """The old vector is of the old text: without a new one it has to go."""
    MemoryVector.objects.filter(memory=memory).delete()
    if vector is not None:
        records.vector_row(memory, vector, model_key).save(force_insert=True)


def delete_memory(principal: Principal, memory_id: str | UUID) -> None:
    """Hides the memory everywhere at once; it can be restored until the retention time ends.

    NotFoundError when it is missing, deleted already or foreign; scope `write`.
    """
    principal.require(Scope.WRITE)
    wanted = queries.as_uuid(memory_id)
    with transaction.atomic():
        memory = _locked(principal, wanted)
        _mark_deleted([memory], principal)
    runtime.current().apply([memory])


def delete_matching(principal: Principal, where: Node) -> int:
    """Deletes every reachable memory that matches, whatever its status; how many. Scope `admin`."""
    principal.require(Scope.ADMIN, "Admin role required.")
    total = 0
    matching = queries.reachable(principal).filter(to_q(where))
    for memories in _batches(matching):
        with transaction.atomic():
            # Once more through the filter: what changed meanwhile may not match any more.
            ids = [memory.id for memory in memories]
            locked = list(matching.select_for_update().filter(id__in=ids))
            _mark_deleted(locked, principal)
        runtime.current().apply(locked)
        total += len(locked)
    return total


def _batches(rows: QuerySet[Memory]) -> Iterator[list[Memory]]:
    """The matching rows in pages; each page has to take its rows out of the match."""
    while batch := list(rows.order_by("id")[:BATCH]):
        yield batch


def _mark_deleted(memories: Collection[Memory], principal: Principal) -> None:
    now = timezone.now()
    Memory.objects.filter(id__in=[memory.id for memory in memories]).update(
        deleted_at=now, updated_at=now, rev=F("rev") + 1
    )
    Revision.objects.bulk_create(
        records.revision(memory, "DELETE", principal, old_text=memory.text, at=now)
        for memory in memories
    )


def restore_memories(principal: Principal, ids: Collection[UUID]) -> list[UUID]:
    """Brings deleted memories back as they were; which ones. Scope `review`.

    ConflictError, and nothing is restored, when one of them has been purged or was never there.
    """
    principal.require(Scope.REVIEW)
    wanted = set(ids)
    now = timezone.now()
    with transaction.atomic():
        rows = list(
            Memory.objects.select_for_update()
            .filter(
                to_q(queries.limit_of(principal)), id__in=wanted, project_id=principal.project.id
            )
            .exclude(deleted_at=None)
            .exclude(text="")
        )
        missing = wanted - {row.id for row in rows}
        if missing:
            raise ConflictError(f"{len(missing)} of these memories cannot be restored any more.")
        Memory.objects.filter(id__in=wanted).update(
            deleted_at=None, updated_at=now, rev=F("rev") + 1
        )
        Revision.objects.bulk_create(
            records.revision(row, "RESTORE", principal, new_text=row.text, at=now) for row in rows
        )
    runtime.current().apply(rows)
    return [row.id for row in rows]


def erase_memories(principal: Principal, ids: Collection[UUID]) -> int:
    """Removes text, vector, kept input and the texts in the history at once and for ever.

    Who did what and when stays in the history. Live and deleted memories alike; ids that are not
    in the caller's reach are passed over. How many were erased; scope `admin`.
    """
    principal.require(Scope.ADMIN)
    now = timezone.now()
    with transaction.atomic():
        rows = list(
            Memory.objects.select_for_update().filter(
                to_q(queries.limit_of(principal)), id__in=list(ids), project_id=principal.project.id
            )
        )
        erased = [row.id for row in rows]
        purge.erase(erased)
        Memory.objects.filter(id__in=erased).update(
            deleted_at=now, updated_at=now, rev=F("rev") + 1
        )
        Revision.objects.bulk_create(
            records.revision(row, "ERASE", principal, at=now) for row in rows
        )
    runtime.current().apply(rows)
    return len(rows)


def _who(principal: Principal) -> dict[str, str]:
    return {"project": principal.project.slug, "key": principal.key_prefix}
