"""Adds: messages become memories, word for word or as facts that an LLM extracts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final, Literal
from uuid import UUID

from django.db import transaction

from core import disk, limits
from core.errors import ConflictError, InvalidInputError, NotFoundError, PermissionDeniedError
from core.principal import Principal, Scope
from memories import queries, runtime, texts
from memories.adding import idempotency
from memories.adding.extraction import store_extracted
from memories.adding.idempotency import AddRequest, Claim, Results
from memories.adding.verbatim import store_verbatim
from memories.models import ENTITY_FIELDS, AddInput
from memories.storage.rows import adopted_app, check_times
from memories.texts import entity_id

logger = logging.getLogger(__name__)

CONVERSATIONAL: Final = "conversational"
PROCEDURAL: Final = "procedural_memory"
IDEMPOTENCY_KEY_LENGTH: Final = 255
# Option of a stored input: how often it was retried after a server stop.
RESUMED: Final = "resumed"


@dataclass(frozen=True, slots=True)
class AddResult:
    """The answer to an add. `stored` says whether texts were stored word for word or extracted;
    `duplicate_of` is the existing memory if nothing was stored because of it."""

    results: Results
    stored: Literal["verbatim", "extracted"]
    duplicate_of: UUID | None = None


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
    dedup: bool = False,
) -> AddResult:
    """Stores messages ({role, content, name?}) as memories of the named entities.

    With an LLM and `infer`, stores the facts that it extracts; otherwise one memory for each
    non-system message, word for word. Empty messages are skipped. One transaction; the metadata is
    echoed unchanged, valid provenance in it is promoted. Identical requests in flight store once
    and get the same answer, and so does a later one with the same `idempotency_key`. With `dedup`,
    a text that the same user has already said (ignoring case and white space) is not stored again
    while a live memory of it exists, even a rejected one.

    Raises InvalidInputError, PermissionDeniedError (scope `write`, or an id outside the entity
    limit), DiskFullError (before anything is stored), ConflictError (the key was used for something
    else), and EngineError if the embedder or the LLM fails; the input is then stored as a failed
    add.
    """
    principal.require(Scope.WRITE)
    entity_ids = _writable_entities(principal, entities, adopted_app(metadata or {}))
    _check(memory_type, prompt, idempotency_key)
    limits.check_metadata(metadata or {})
    check_times(metadata or {})
    spoken = _spoken(messages)
    if memory_type == PROCEDURAL and infer and "agent_id" not in entity_ids:
        raise InvalidInputError("A procedural memory needs an agent_id.")
    if all(map(_is_system, spoken)):
        return AddResult([], "verbatim")
    disk.check_room(sum(len(str(message.get("content"))) for message in spoken))
    options = {
        "entities": entity_ids,
        "metadata": dict(metadata or {}),
        "expiration_date": expiration_date.isoformat() if expiration_date else None,
        "infer": infer,
        "memory_type": memory_type,
        "prompt": prompt,
        "collection": collection,
    }
    extracts = infer and can_extract()
    notes = {"scopes": sorted(principal.scopes), "extracts": extracts}
    request = AddRequest(spoken, options, idempotency_key, notes)
    if dedup:
        request = _stored_once(request)
        # A first check before anything is stored; `_store` checks again under the claim.
        if not idempotency_key and (duplicate := _find_duplicate(principal, request)) is not None:
            return AddResult([], _kind_of_storage(extracts), duplicate)
    if infer and not extracts:
        who = {"project": principal.project.slug, "key": principal.key_prefix}
        logger.info("no LLM is configured: stored word for word", extra=who)
    with idempotency.once(request, principal) as claim:
        if claim.answer is None:
            return _store(principal, request, claim, extracts=extracts)
        # An identical add was under way, and this one gets its answer.
        duplicate = _find_duplicate(principal, request) if dedup and not idempotency_key else None
        return AddResult([] if duplicate else claim.answer, _kind_of_storage(extracts), duplicate)


def retry_add(principal: Principal, input_id: UUID) -> AddResult:
    """Retries a failed add of the project from its stored input; scope `admin`.

    The retry has no more scopes than the sender had. NotFoundError; ConflictError if the add has
    not failed, its input is gone, an identical request was stored since, or it needs an LLM and
    none is configured any more; errors as `add_memories`, after which the add stays failed.
    """
    principal.require_project("failed adds")
    input_ = AddInput.objects.filter(id=input_id, project_id=principal.project.id).first()
    if input_ is None:
        raise NotFoundError(f"There is no add {input_id}.")
    if input_.outcome != AddInput.Outcome.FAILED:
        raise ConflictError(f"The add {input_id} has not failed: it is {input_.outcome}.")
    if not input_.messages:
        raise ConflictError(f"The input of the add {input_id} has been erased.")
    disk.check_room()
    options = dict(input_.options)
    options.pop(RESUMED, None)
    scopes = options.pop("scopes", principal.scopes)
    extracts = options["infer"] and runtime.get_runtime().engine.llm is not None
    if options.pop("extracts", False) and not extracts:
        raise ConflictError("No LLM is configured, and this add is to be extracted by one.")
    allowed = frozenset(scope for scope in principal.scopes if scope in scopes)
    sender = replace(principal, scopes=allowed)
    once = None
    if fingerprint := options.get("fingerprint"):
        once = (options["entities"].get("user_id", ""), fingerprint)
    request = AddRequest(input_.messages, options, once=once)
    with idempotency.again(input_) as claim:
        return _store(sender, request, claim, extracts=extracts)


def _store(principal: Principal, request: AddRequest, claim: Claim, *, extracts: bool) -> AddResult:
    """Stores the request under its claim."""
    if request.once and (duplicate := _find_duplicate(principal, request)):
        # The previous holder of the claim has stored it.
        with transaction.atomic():
            claim.finish([])
        return AddResult([], _kind_of_storage(extracts), duplicate)
    store = store_extracted if extracts else store_verbatim
    return AddResult(store(principal, request, claim), _kind_of_storage(extracts))


def can_extract() -> bool:
    """Whether there is an LLM; without one, adds are stored word for word."""
    return runtime.get_runtime().engine.llm is not None


def _spoken(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with text. InvalidInputError if there are messages and all of them are empty."""
    spoken = [dict(message) for message in messages if str(message.get("content") or "").strip()]
    if not all(map(_is_system, messages)) and all(map(_is_system, spoken)):
        raise InvalidInputError(
            "A message cannot be empty or whitespace-only: there is no text in any of these."
        )
    for message in spoken:
        limits.check_text(str(message["content"]), "A message")
    return spoken


def _is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "system"


def _check(memory_type: str | None, prompt: str | None, idempotency_key: str) -> None:
    if memory_type not in (None, PROCEDURAL):
        raise InvalidInputError(
            f"Invalid 'memory_type'. Please pass {PROCEDURAL} to create procedural memories."
        )
    if prompt is not None and len(prompt) > limits.PROMPT_LETTERS:
        raise InvalidInputError(f"A prompt can have at most {limits.PROMPT_LETTERS:,} characters.")
    if len(idempotency_key) > IDEMPOTENCY_KEY_LENGTH or "\0" in idempotency_key:
        raise InvalidInputError(
            f"An Idempotency-Key has at most {IDEMPOTENCY_KEY_LENGTH} characters."
        )


def _kind_of_storage(extracts: bool) -> Literal["verbatim", "extracted"]:
    return "extracted" if extracts else "verbatim"


def _stored_once(request: AddRequest) -> AddRequest:
    """The same request, marked so that its text is stored only once for a user."""
    fingerprint = _fingerprint(request.messages)
    user_id = request.options["entities"].get("user_id", "")
    options = {**request.options, "fingerprint": fingerprint}
    return replace(request, options=options, once=(user_id, fingerprint))


def _fingerprint(messages: Sequence[Mapping[str, Any]]) -> str:
    """The fingerprint of a single message equals that of its memory; several have one for the
    whole."""
    if len(messages) == 1 and messages[0].get("role") == "user":
        return texts.fingerprint(messages[0]["content"])
    return texts.transcript_fingerprint(messages)


def _find_duplicate(principal: Principal, request: AddRequest) -> UUID | None:
    """The memory that already stores the same text of the same user."""
    user_id, fingerprint = request.once or ("", "")
    collection = request.options["collection"]
    return queries.find_duplicate(principal, fingerprint, user_id=user_id, collection=collection)


def _writable_entities(
    principal: Principal, entities: Mapping[str, str | None], adopted: str | None
) -> dict[str, str]:
    """The checked entity ids of a write; the project's default user if there are none."""
    entity_ids = {name: entity_id(v, name) for name, v in entities.items() if v is not None}
    if not entity_ids and principal.project.default_user_id:
        entity_ids = {"user_id": principal.project.default_user_id}
    if not any(name in entity_ids for name in ENTITY_FIELDS):
        raise InvalidInputError("At least one identifier (user_id, agent_id, run_id) is required.")
    if adopted is not None:
        # Only in addition to an identifier: for clients that send it, this is plain metadata.
        entity_ids.setdefault("app_id", adopted)
    for name in principal.entity_limit or {}:
        if not principal.may_use(name, entity_ids.get(name, "")):
            raise PermissionDeniedError(f"This credential may not write for this {name}.")
    return entity_ids


def failed_adds(principal: Principal) -> list[AddInput]:
    """The project's failed adds that can be retried, oldest first; scope `admin`."""
    principal.require_project("failed adds")
    return list(idempotency.filter_failed(principal.project.id).order_by("created_at"))
