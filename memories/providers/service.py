"""The configuration of providers: changing, probing, listing models, generating instructions."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from django.db import transaction

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from accounts.queries import instructions_of
from accounts.services import set_instructions
from core.errors import ConflictError, InvalidInputError, NotConfiguredError, ProviderError
from core.principal import Principal, Scope
from memories import runtime
from memories.engine import (
    catalogue,
    choices,
    configuration,
    failures,
    hints,
    listing,
    remote,
    replies,
)
from memories.engine.catalogue import LOCAL, NONE, PROVIDERS, Configuration, Kind, ProviderChoice
from memories.engine.choices import shorten
from memories.engine.configuration import SECTIONS, ChangedMeanwhileError
from memories.engine.engine import Engine
from memories.models.server import Reembedding

logger = logging.getLogger(__name__)

USE_CASE_LENGTH: Final = 4000
INSTRUCTIONS_LENGTH: Final = 20_000
# A change that meets a concurrent one is merged into its result, at most this often.
CHANGE_ATTEMPTS: Final = 5
DEFAULT_TEST_MESSAGE: Final = "I like to hike on weekends."
# Fields that clients send back although they cannot be changed here.
_READ_ONLY: Final = frozenset({"version", "vector_store", "history_db_path"})
# The name of these instance-wide settings, for messages.
PROVIDERS_OF: Final = "providers"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of one real call to a provider. `dims` is for embedders; `cause` and `hint` say
    what went wrong and what to do about it."""

    ok: bool
    latency_ms: float
    dims: int = 0
    code: str = ""
    cause: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names of a provider's models, the likely ones first; `problem` says why there are
    none."""

    names: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ProvidersInUse:
    """The configuration in use, without secrets; a section is {provider, config}."""

    llm: dict[str, Any]
    embedder: dict[str, Any]
    fallback_llm: dict[str, Any] | None
    instructions: str


def get_in_use(principal: Principal) -> ProvidersInUse:
    """The providers in use and the project's instructions; scope `read`."""
    principal.require(Scope.READ)
    current = configuration.current_configuration()
    engine = runtime.get_runtime().engine
    own = {"model": engine.model_key or "none", "embedding_dims": engine.dims}
    return ProvidersInUse(
        llm=_section(current.llm) or {"provider": NONE, "config": {}},
        embedder=_section(current.embedder) or {"provider": LOCAL, "config": own},
        fallback_llm=_section(current.fallback_llm),
        instructions=instructions_of(principal.project.id),
    )


def _section(choice: ProviderChoice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {"provider": choice.provider, "config": configuration.redact(choice)}


def list_installed() -> dict[str, list[str]]:
    """The names of the providers that can be chosen, by kind."""
    return {
        "llm": catalogue.list_installed("llm"),
        "embedder": catalogue.list_installed("embedder"),
    }


def configure(principal: Principal, change: Mapping[str, Any]) -> None:
    """Merges `change` ({llm?, embedder?, fallback_llm?, custom_instructions?}) into the
    configuration in use, at once and without a restart.

    A secret never follows to another provider or address. PermissionDeniedError (providers: the
    instance owner; instructions: scope `admin`; neither with an entity limit), InvalidInputError,
    ConflictError for another embedder while there are memories, ProviderError if a new embedder's
    dimensions cannot be measured; nothing has changed then.
    """
    principal.require_project("the configuration")
    unknown = set(change) - set(SECTIONS) - _READ_ONLY - {"custom_instructions"}
    if unknown:
        raise InvalidInputError(f"'{shorten(min(unknown))}' cannot be configured here.")
    instructions = change.get("custom_instructions")
    if not isinstance(instructions, str | None) or len(instructions or "") > INSTRUCTIONS_LENGTH:
        raise InvalidInputError(
            f"custom_instructions must be text of at most {INSTRUCTIONS_LENGTH} characters."
        )
    sections = {name: change[name] for name in SECTIONS if name in change}
    if sections:
        principal.require_instance(PROVIDERS_OF)
        _change(principal, sections)
    if "custom_instructions" in change:
        set_instructions(
            project_id=principal.project.id,
            instructions=instructions or "",
            actor=principal.actor,
        )


def _change(principal: Principal, sections: Mapping[str, Any]) -> None:
    for attempt in range(1, CHANGE_ATTEMPTS + 1):
        former = configuration.current_configuration()
        try:
            return use_configuration(principal, apply_sections(former, sections), former)
        except ChangedMeanwhileError:
            if attempt == CHANGE_ATTEMPTS:
                raise


def apply_sections(former: Configuration, sections: Mapping[str, Any]) -> Configuration:
    """`former` with these sections merged in; InvalidInputError."""
    merged = former
    for name, change in sections.items():
        choice = configuration.merge(getattr(former, name), change, SECTIONS[name])
        merged = merged.with_section(name, choice)
    if merged.fallback_llm is not None and merged.llm is None:
        raise InvalidInputError(
            "A fallback LLM needs an LLM that it stands in for: send fallback_llm as null as well."
        )
    if merged.embedder != former.embedder:
        merged = replace(merged, dims=0)
    return merged


def with_dims(target: Configuration) -> Configuration:
    """The configuration with the dimensions of its embedder, measured now if they are unknown.

    ProviderError if the embedder does not answer; InvalidInputError if its dimensions differ from
    the requested ones.
    """
    if target.embedder is None or target.dims:
        return target
    dims = remote.measure_dims(target.embedder)
    requested = target.embedder.config.get("embedding_dims")
    if requested and requested != dims:
        raise InvalidInputError(
            f"The embedder answers with {dims} dimensions, not with the {requested} that "
            "embedding_dims asks for; leave it out, or name a model that can be shortened."
        )
    return replace(target, dims=dims)


def use_configuration(principal: Principal, target: Configuration, former: Configuration) -> None:
    if target == former:
        return
    for name in ("llm", "fallback_llm"):
        choice = getattr(target, name)
        if choice is not None and choice != getattr(former, name):
            remote.RemoteLlm(choice, attempts=1)  # raises if it cannot be set up
    if target.embedder != former.embedder:
        target = with_dims(target)
    current = runtime.get_runtime()
    engine = runtime.engine_of(target, current.engine)
    if target.embedder != former.embedder:
        _check_embedder(engine, current.engine)

    def commit() -> int:
        with transaction.atomic():
            row = configuration.save(target, account_id=principal.account_id, reason="configured")
            audit.record(
                AuditAction.PROVIDERS_CONFIGURED,
                actor=principal.actor,
                target=AuditTarget("providers"),
                details=_differences(former, target),
            )
        return row.version

    current.use(engine, commit)
    logger.info(
        "providers configured",
        extra={
            "llm": target.llm.provider if target.llm else "none",
            "embedder": engine.model_key,
            "project": principal.project.slug,
        },
    )


def _differences(former: Configuration, target: Configuration) -> dict[str, Any]:
    """The changes as {"llm.model": [before, after]}. A secret is only named as changed, and an
    address is cut after its path, because some services expect a key in the query."""
    before, after = _flattened(former), _flattened(target)
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    return {name: _audit_value(name, before.get(name), after.get(name)) for name in sorted(changed)}


def _audit_value(name: str, *pair: Any) -> Any:
    key = name.rpartition(".")[2]
    if key in catalogue.SECRETS:
        return audit.CHANGED
    if key in catalogue.ADDRESSES:
        return [value and str(value).partition("?")[0] for value in pair]
    return list(pair)


def _flattened(configured: Configuration) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section in SECTIONS:
        choice: ProviderChoice | None = getattr(configured, section)
        values[f"{section}.provider"] = choice.provider if choice else None
        for key, value in catalogue.walk(choice.config) if choice else ():
            if key in catalogue.SECRETS or not isinstance(value, Mapping):
                values[f"{section}.{key}"] = value
    return values


def _check_embedder(engine: Engine, former: Engine) -> None:
    """Refuses a missing embedder, and one that the stored memories are not embedded with."""
    if engine.embedder is None:
        raise InvalidInputError(
            "The local model is not prepared: run manage.py prepare_embedder first."
            if engine.chosen is None
            else "The embedder cannot be set up."
        )
    if engine.model_key == former.model_key:
        return
    if Reembedding.objects.filter(state=Reembedding.State.RUNNING).exists():
        raise ConflictError(
            "The memories are being embedded anew; wait for it, or cancel it with "
            "manage.py reembed --cancel."
        )
    runtime.check_model(engine)


def probe(principal: Principal, kind: Kind, change: Any) -> ProbeResult:
    """One real call with `change` ({provider?, config?}) merged into the configured `kind`; stores
    nothing. For the instance owner; InvalidInputError."""
    principal.require_instance(PROVIDERS_OF)
    former = configuration.current_configuration()
    choice = configuration.merge(getattr(former, kind), change, kind)
    if choice is None:
        raise InvalidInputError("There is nothing to ask: no provider is chosen.")
    return probe_choice(choice, kind)


def probe_choice(choice: ProviderChoice, kind: Kind) -> ProbeResult:
    """One real call to this provider: how long it took, or what went wrong."""
    dims, started = 0, time.perf_counter()
    try:
        if kind == "embedder":
            dims = remote.measure_dims(choice)
        else:
            llm = remote.RemoteLlm(choice, attempts=1)
            started = time.perf_counter()  # the set-up does not count
            llm.generate_response([{"role": "user", "content": "Answer with the one word: ready"}])
        return ProbeResult(ok=True, latency_ms=_since(started), dims=dims)
    except ProviderError as error:
        return ProbeResult(
            ok=False,
            latency_ms=_since(started),
            code=error.code,
            cause=error.cause,
            hint=hints.hint(error, choice, kind),
        )
    except InvalidInputError as error:
        hint = "It was not asked: configure it anew, or install what it needs."
        return ProbeResult(
            ok=False, latency_ms=0, code=failures.REFUSED, cause=error.message, hint=hint
        )


def models(choice: ProviderChoice, kind: Kind) -> ModelNames:
    """Asks the provider once for its models of this kind. The caller checks permissions. Never
    raises; `problem` says what went wrong."""
    try:
        if choice.provider not in PROVIDERS:
            return ModelNames((), "There is nothing to ask: no provider is chosen.")
        choices.check_provider(choice.provider, kind)
        if not listing.can_list(choice.provider):
            return ModelNames((), hints.hint_no_list(choice))
        if choices.lacks_key(choice):
            return ModelNames((), f"{PROVIDERS[choice.provider].called} needs an API key.")
        names = listing.list_models(choice, kind)
    except ProviderError as error:
        return ModelNames((), hints.listing_hint(error, choice))
    except InvalidInputError as error:
        return ModelNames((), error.message)
    return ModelNames(names, "" if names else hints.hint_empty_list(choice, kind))


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)


_INSTRUCTIONS_PROMPT: Final = """\
You write instructions for a system that reads conversations and keeps facts about people as
long-term memories. From the use case below, write instructions that say what is worth remembering,
what is not, and how specific a memory should be: at most 200 words, imperative, in the language of
the use case. Write also one message that a user might say in this use case and that holds a fact
worth remembering.

Answer with JSON alone: {"custom_instructions": "…", "test_message": "…"}

Use case:
"""


def generate_instructions(principal: Principal, use_case: str) -> tuple[str, str]:
    """Generates instructions for a use case and a message to try them with, using the LLM.

    Scope `write`, because the call costs money. InvalidInputError for an empty or overlong use
    case; NotConfiguredError if there is no LLM; ProviderError if it fails.
    """
    principal.require(Scope.WRITE)
    if not use_case.strip() or len(use_case) > USE_CASE_LENGTH:
        raise InvalidInputError(f"use_case must be text of 1 to {USE_CASE_LENGTH} characters.")
    llm = runtime.get_runtime().engine.llm
    if llm is None:
        raise NotConfiguredError("No LLM is configured: write the instructions by hand.")
    reply = llm.generate_response(
        [{"role": "user", "content": _INSTRUCTIONS_PROMPT + use_case.strip()}]
    )
    try:
        answer = replies.json_object(reply)
    except ProviderError:
        # Not the requested JSON, but usable as instructions.
        return reply, DEFAULT_TEST_MESSAGE
    instructions = answer.get("custom_instructions")
    test = answer.get("test_message")
    if not isinstance(instructions, str) or not instructions.strip():
        raise failures.failure(failures.MALFORMED, "The reply holds no instructions.")
    test = test if isinstance(test, str) and test.strip() else DEFAULT_TEST_MESSAGE
    return replies.make_storable(instructions).strip(), replies.make_storable(test).strip()
