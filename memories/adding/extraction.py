"""Adds through an LLM: mem0 extracts the facts, our store keeps them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from django.db import Error as AnyDatabaseError
from django.db import transaction

from accounts.queries import instructions_of
from core.errors import IndexUnavailableError, Mem0dashError
from core.principal import Principal
from memories import queries, runtime, texts, visibility
from memories.adding.idempotency import AddRequest, Claim, Results
from memories.engine import failures
from memories.engine.engine import Engine
from memories.filters import AllOf, Comparison, pushdown
from memories.models import Memory, adds
from memories.readings import Vector
from memories.storage.rows import Draft, build_memories, insert_memories

if TYPE_CHECKING:
    from memories.engine.mem0_adapter import ExtractedMemory

logger = logging.getLogger(__name__)

# Without this, mem0's own prompt makes models write English.
LANGUAGE: Final = (
    "Write every memory in the language, and in the script, of the message that it comes from. "
    "Never translate."
)


def store_extracted(principal: Principal, request: AddRequest, claim: Claim) -> Results:
    """Stores the facts that the LLM extracts from the messages; returns the results of the answer.

    The request's prompt replaces the project's instructions. ProviderError if the LLM or the
    embedder fails or sends an unreadable answer; nothing is stored then.
    """
    # Imported here: mem0 takes a second to import, and an installation without an LLM never does.
    from memories.engine.mem0_adapter import (
        AddAbandonedError,
        EngineMemory,
        HistoryAdapter,
        RecordStore,
    )

    current, template, prompt = runtime.get_runtime(), request.template, request.options["prompt"]
    entities = template.entities
    scope = adds.message_scope(*(entities.get(n, "") for n in ("user_id", "agent_id", "run_id")))
    facts = _Facts(principal, template, claim, current.engine)
    memory = EngineMemory(
        engine=current.engine,
        store=RecordStore(facts.write, _finder(principal, entities)),
        history=HistoryAdapter(principal.project.id, scope),
    )
    try:
        memory.add(
            [dict(message) for message in request.messages],
            user_id=entities.get("user_id"),
            agent_id=entities.get("agent_id"),
            run_id=entities.get("run_id") or entities.get("app_id"),
            memory_type=template.memory_type or None,
            prompt=prompt if template.memory_type else _instructions(principal, prompt),
        )
    except (AddAbandonedError, Exception) as error:  # noqa: BLE001  (mem0 wraps exceptions; see _cause_of)
        if not facts.rows:
            raise _cause_of(error) from None
        # The memories are stored. mem0's later step only prepares the next add.
        logger.warning("messages not remembered", extra={"kind": type(error).__name__})
    if not facts.rows:
        claim.finish([])
    current.apply(facts.rows)
    return _results_of(facts.rows)


@dataclass(slots=True)
class _Facts:
    """The store that mem0 writes one add's facts to; `rows` are the stored memories."""

    principal: Principal
    template: Draft
    claim: Claim
    engine: Engine
    rows: list[Memory] = field(default_factory=list)

    def write(self, extracted: "list[ExtractedMemory]") -> None:
        """Stores the facts and finishes the add in one transaction."""
        accepted = _not_rejected(self.principal, self.template, extracted)
        if not accepted:
            return
        drafts = [_draft(self.template, item) for item in accepted]
        memories = build_memories(drafts, principal=self.principal, batch_id=self.claim.kept.pk)
        readings = [item.reading for item in accepted]
        keys = (self.engine.model_key, self.engine.states_key)
        with transaction.atomic():
            insert_memories(memories, readings, *keys, principal=self.principal)
            self.claim.finish(_results_of([*self.rows, *memories]))
        self.rows += memories


def _results_of(rows: Sequence[Memory]) -> Results:
    return [{"id": str(row.id), "memory": row.text, "event": "ADD"} for row in rows]


def _not_rejected(
    principal: Principal, template: Draft, extracted: "list[ExtractedMemory]"
) -> "list[ExtractedMemory]":
    """The facts without those that a reviewer rejected word for word; repeating does not restore
    them."""
    prints = {item.id: texts.fingerprint(item.text) for item in extracted}
    rejected = queries.find_rejected(
        principal,
        list(prints.values()),
        user_id=template.entities.get("user_id", ""),
        collection=template.collection,
    )
    return [item for item in extracted if prints[item.id] not in rejected]


def _draft(template: Draft, item: "ExtractedMemory") -> Draft:
    return replace(
        template,
        id=item.id,
        text=item.text,
        attributed_to=item.attributed_to,
        memory_type=item.memory_type or template.memory_type,
    )


def _cause_of(error: BaseException) -> BaseException:
    """The cause of mem0's exception: our own or the database's error in its chain, else a provider
    failure."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, Mem0dashError | AnyDatabaseError):
            return link
        link = link.__cause__ or link.__context__
    logger.error("extraction failed", extra={"kind": type(error).__name__})
    return failures.failure(failures.UNKNOWN, type(error).__name__)


def _instructions(principal: Principal, prompt: str | None) -> str:
    """The request's prompt or else the project's instructions, always with the rule about
    language."""
    prompt = prompt or instructions_of(principal.project.id)
    return f"{prompt}\n\n{LANGUAGE}" if prompt else LANGUAGE


def _finder(
    principal: Principal, entities: Mapping[str, str]
) -> Callable[[Vector | None, int], list[tuple[Memory, float]]]:
    """Finds the nearest memories of the same entities, re-checked in SQL."""
    conditions = tuple(Comparison(name, "eq", value) for name, value in entities.items())

    def find(vector: Vector | None, limit: int) -> list[tuple[Memory, float]]:
        rows = visibility.filter_visible(principal, AllOf(conditions))
        # A command has no index and uses the latest memories instead of the nearest.
        running = runtime.get_runtime()
        if vector is None or running.indexer is None:
            return [(row, 0.0) for row in rows.order_by("-created_at")[:limit]]
        project = Comparison("project", "in", (str(principal.project.id),))
        where, _ = pushdown(AllOf((project, *conditions)))
        try:
            with running.briefly():
                hits = running.index.search(vector, limit=limit, where=where)
        except IndexUnavailableError:
            # An outage of the index is no reason to lose an add.
            logger.warning("the index is unavailable: extraction sees the latest memories")
            return [(row, 0.0) for row in rows.order_by("-created_at")[:limit]]
        memories = {row.id: row for row in rows.filter(id__in=[id_ for id_, _ in hits])}
        return [(memories[id_], score) for id_, score in hits if id_ in memories]

    return find
