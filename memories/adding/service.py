"""Adds: what was said becomes memories, word for word or as an LLM understands it."""

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
from memories.adding import idempotency as ingest
from memories.adding.extraction import store_extracted
from memories.adding.idempotency import AddRequest, Claim, Results
from memories.adding.verbatim import store_verbatim
from memories.models import ENTITY_FIELDS, AddInput
from memories.storage import rows as records
from memories.storage.rows import adopted_app
from memories.texts import entity_id

logger = logging.getLogger(__name__)

CONVERSATIONAL: Final = "conversational"
PROCEDURAL: Final = "procedural_memory"
IDEMPOTENCY_KEY_LENGTH: Final = 255
# Among the options of a kept add: how often it was tried again after a stop of the server.
RESUMED: Final = "resumed"


@dataclass(frozen=True, slots=True)
class AddResult:
    """What an add answers. `stored` says whether texts were kept word for word or extracted;
    `duplicate_of` names the memory because of which nothing was stored."""

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

    With an LLM and `infer`, what it extracts; else one memory for each non-system message, word for
    word; turns in which nothing is said are passed over. One transaction; the metadata is echoed
    unchanged, valid provenance in it is promoted.
    Identical requests in flight store once and get the same answer, and so does a later one with
    the same `idempotency_key`. With `dedup`, what the same user said already, but for case and
    white space, is not stored again while a live memory of it is there, a rejected one included.

    Raises InvalidInputError, PermissionDeniedError (scope `write`, or an id outside the entity
    limit), DiskFullError (before anything is kept), ConflictError (the key was used for something
    else), and EngineError when the embedder or the LLM fails: then the input is kept as a failed
    add.
    """
    principal.require(Scope.WRITE)
    chosen = _writable_entities(principal, entities, adopted_app(metadata or {}))
    _check(memory_type, prompt, idempotency_key)
    limits.check_metadata(metadata or {})
    records.check_times(metadata or {})
    said = _spoken(messages)
    if memory_type == PROCEDURAL and infer and "agent_id" not in chosen:
        raise InvalidInputError("A procedural memory needs an agent_id.")
    if all(map(_is_system, said)):
        return AddResult([], "verbatim")
    disk.check_room(sum(len(str(message.get("content"))) for message in said))
    options = {
        "entities": chosen,
        "metadata": dict(metadata or {}),
        "expiration_date": expiration_date.isoformat() if expiration_date else None,
        "infer": infer,
        "memory_type": memory_type,
        "prompt": prompt,
        "collection": collection,
    }
    extracts = infer and can_extract()
    notes = {"scopes": sorted(principal.scopes), "extracts": extracts}
    request = AddRequest(said, options, idempotency_key, notes)
    if dedup:
        request = _stored_once(request)
        # Before anything is written down; after its claim it is looked for once more.
        if not idempotency_key and (known := _known(principal, request)) is not None:
            return AddResult([], _stored(extracts), known)
    if infer and not extracts:
        who = {"project": principal.project.slug, "key": principal.key_prefix}
        logger.info("no LLM is configured: stored word for word", extra=who)
    with ingest.once(request, principal) as claim:
        if claim.answer is None:
            return _store(principal, request, claim, extracts=extracts)
        # Somebody else's add of the same was under way, and this one has got its answer.
        known = _known(principal, request) if dedup and not idempotency_key else None
        return AddResult([] if known else claim.answer, _stored(extracts), known)


def retry_add(principal: Principal, input_id: UUID) -> AddResult:
    """Tries a failed add of the project again, with what was kept of it; scope `admin`.

    It may do no more than who sent it might. NotFoundError when there is none; ConflictError when
    it has not failed, when its input is gone, when an identical request was stored since, or when
    it wants an LLM and there is none any more; errors as `add_memories`, and then it stays failed.
    """
    principal.require_project("failed adds")
    kept = AddInput.objects.filter(id=input_id, project_id=principal.project.id).first()
    if kept is None:
        raise NotFoundError(f"There is no add {input_id}.")
    if kept.outcome != AddInput.Outcome.FAILED:
        raise ConflictError(f"The add {input_id} has not failed: it is {kept.outcome}.")
    if not kept.messages:
        raise ConflictError(f"The input of the add {input_id} has been erased.")
    disk.check_room()
    options = dict(kept.options)
    options.pop(RESUMED, None)
    scopes = options.pop("scopes", principal.scopes)
    extracts = options["infer"] and runtime.get_runtime().engine.llm is not None
    if options.pop("extracts", False) and not extracts:
        raise ConflictError("No LLM is configured, and this add is to be extracted by one.")
    may = frozenset(scope for scope in principal.scopes if scope in scopes)
    sender = replace(principal, scopes=may)
    once = None
    if fingerprint := options.get("fingerprint"):
        once = (options["entities"].get("user_id", ""), fingerprint)
    request = AddRequest(kept.messages, options, once=once)
    with ingest.again(kept) as claim:
        return _store(sender, request, claim, extracts=extracts)


def _store(principal: Principal, request: AddRequest, claim: Claim, *, extracts: bool) -> AddResult:
    """Stores the request, now that nobody else is at it."""
    if request.once and (known := _known(principal, request)):
        # Whoever held the claim before has stored it.
        with transaction.atomic():
            claim.finish([])
        return AddResult([], _stored(extracts), known)
    store = store_extracted if extracts else store_verbatim
    return AddResult(store(principal, request, claim), _stored(extracts))


def can_extract() -> bool:
    """Whether there is an LLM; without one, adds are stored word for word."""
    return runtime.get_runtime().engine.llm is not None


def _spoken(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The turns in which something is said; InvalidInputError where there are turns, and nothing
    in any of them."""
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


def _stored(extracts: bool) -> Literal["verbatim", "extracted"]:
    return "extracted" if extracts else "verbatim"


def _stored_once(request: AddRequest) -> AddRequest:
    """The same request, as one whose words are not to be stored twice for one user."""
    fingerprint = _fingerprint(request.messages)
    user_id = request.options["entities"].get("user_id", "")
    options = {**request.options, "fingerprint": fingerprint}
    return replace(request, options=options, once=(user_id, fingerprint))


def _fingerprint(messages: Sequence[Mapping[str, Any]]) -> str:
    """Of a lone text as of a memory that holds it word for word; of several, of the whole."""
    if len(messages) == 1 and messages[0].get("role") == "user":
        return texts.fingerprint(messages[0]["content"])
    return texts.transcript_fingerprint(messages)


def _known(principal: Principal, request: AddRequest) -> UUID | None:
    """The memory in which the same user's same words are stored already."""
    user_id, fingerprint = request.once or ("", "")
    collection = request.options["collection"]
    return queries.find_duplicate(principal, fingerprint, user_id=user_id, collection=collection)


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


def failed_adds(principal: Principal) -> list[AddInput]:
    """The project's failed adds that wait for another attempt, oldest first; scope `admin`."""
    principal.require_project("failed adds")
    return list(ingest.filter_failed(principal.project.id).order_by("created_at"))
