"""From one embedder to another while search goes on: new vectors beside the old, then one flip."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from core.database import portions
from core.errors import ConflictError, ProviderError
from core.principal import OPERATOR, Actor, Principal
from jobs import leases, queue
from memories import runtime
from memories.backfill import vectors
from memories.engine import configuration, failures
from memories.engine.catalogue import Configuration
from memories.engine.engine import Engine
from memories.models import Memory, MemoryVector
from memories.models.server import IndexState, Reembedding
from memories.providers import service as providers
from memories.runtime import Runtime

logger = logging.getLogger(__name__)

LEASE: Final = "reembedding"
# The kind of job that removes the vectors of a cancelled passage.
DROP: Final = "memories.drop-vectors"
BATCH: Final = 100
# Longer than a call with its attempts and the pause after it take.
LEASE_SECONDS: Final = 120.0
# After a failing call; it doubles, and the provider's own wish counts more.
PAUSE_SECONDS: Final = 2.0
MOST_PAUSE_SECONDS: Final = 30.0
_NEVER: Final = threading.Event()
Progress = Callable[[int, int], None]


def find_running() -> Reembedding | None:
    """The passage that is under way."""
    return Reembedding.objects.filter(state=Reembedding.State.RUNNING).first()


def start(principal: Principal, change: Mapping[str, Any] | None) -> Reembedding:
    """Begins the passage to the embedder that `change` ({provider, config}; None: the local one)
    makes of the configured one. The instance owner's.

    ConflictError when one is under way or nothing would change; InvalidInputError and ProviderError
    as `providers.configure`.
    """
    principal.require_instance(providers.PROVIDERS_OF)
    former = configuration.current_configuration()
    wanted = providers.with_dims(providers.apply_sections(former, {"embedder": change}))
    return _begin(wanted, former, principal)


def start_back(principal: Principal) -> Reembedding:
    """Begins the way back to the embedder before the last passage: what its vectors are of is not
    embedded again. ConflictError when there was none."""
    principal.require_instance(providers.PROVIDERS_OF)
    last = Reembedding.objects.filter(state=Reembedding.State.FLIPPED).order_by("-id").first()
    if last is None:
        raise ConflictError("There is no former embedder to go back to.")
    former = configuration.current_configuration()
    before = configuration.unseal(last.former_config)
    wanted = replace(former, embedder=before.embedder, dims=last.former_dims)
    return _begin(wanted, former, principal)


def _begin(wanted: Configuration, former: Configuration, principal: Principal) -> Reembedding:
    engine = runtime.engine_of(wanted)
    if engine.embedder is None:
        raise ConflictError("The new embedder cannot be used: there would be no vectors.")
    state = IndexState.objects.first()
    of_index = (state.model_key, state.dims) if state else ("", 0)
    if of_index[0] == engine.model_key:
        raise ConflictError(f"The memories are embedded with {engine.model_key} already.")
    try:
        with transaction.atomic():
            job = Reembedding.objects.create(
                config=configuration.seal(wanted),
                model_key=engine.model_key,
                dims=engine.dims,
                former_config=configuration.seal(former),
                former_model_key=of_index[0],
                former_dims=of_index[1],
                account_id=principal.account_id,
            )
            _record(AuditAction.REEMBEDDING_BEGUN, job, principal.actor)
            return job
    except IntegrityError as error:
        raise ConflictError("The memories are being embedded anew already.") from error


def all_of() -> QuerySet[Reembedding]:
    """All passages, the one under way and those of before."""
    return Reembedding.objects.all()


def cancel(principal: Principal, *, drop_later: bool = False) -> Reembedding:
    """Ends the passage that is under way; its vectors go, search was never touched. With
    `drop_later` a job removes them: a request is not to take that long."""
    principal.require_instance(providers.PROVIDERS_OF)
    with transaction.atomic():
        job = find_running()
        if job is None or not _end(job, Reembedding.State.CANCELLED):
            raise ConflictError("The memories are not being embedded anew.")
        _record(AuditAction.REEMBEDDING_CANCELLED, job, principal.actor)
        if drop_later:
            payload = {"model_key": job.model_key}
            queue.enqueue(DROP, project_id=None, principal=principal, payload=payload)
    if not drop_later:
        _drop(job.model_key)
    return job


def drop_some(model_key: str) -> int:
    """Removes a portion of the vectors of a model that is not in use, nor about to be; how many,
    0 for none left."""
    state, passage = IndexState.objects.first(), find_running()
    if model_key in {state and state.model_key, passage and passage.model_key}:
        return 0
    ids = list(MemoryVector.objects.filter(model_key=model_key).values_list("id", flat=True)[:500])
    return MemoryVector.objects.filter(id__in=ids).delete()[0] if ids else 0


def drop_former(principal: Principal) -> int:
    """Removes the vectors of every other model than the one in use: the way back then embeds
    everything again. How many; ConflictError while a passage is under way."""
    principal.require_instance(providers.PROVIDERS_OF)
    if find_running() is not None:
        raise ConflictError("The memories are being embedded anew; wait for it, or cancel it.")
    state = IndexState.objects.first()
    keys = MemoryVector.objects.values_list("model_key", flat=True).distinct()
    former = [key for key in keys if state and key != state.model_key]
    for key in former:
        # Before they go, a portion at a time: a process that ends in between has begun to.
        audit.record(
            AuditAction.VECTORS_REMOVED, actor=principal.actor, target=AuditTarget("model", "", key)
        )
    return sum(_drop(key) for key in former)


def measure_progress(job: Reembedding) -> tuple[int, int]:
    """How many live memories have their new vector, of how many."""
    live = Memory.objects.filter(deleted_at=None).exclude(text="")
    made = MemoryVector.objects.filter(model_key=job.model_key, memory__deleted_at=None)
    return made.count(), live.count()


def work(
    job: Reembedding,
    *,
    stop: threading.Event = _NEVER,
    show: Progress = lambda done, total: None,
) -> None:
    """Makes the vectors that are still lacking, batch by batch, until none is, or until `stop`.

    What was made stays, so it goes on after a kill where it was. A provider that does not answer is
    asked again until it does; ProviderError when it refuses. ConflictError when another process is
    at it, or when the passage was cancelled.
    """
    with leases.hold(LEASE, LEASE_SECONDS) as lease:
        # Token states are the local model's, whatever makes the vectors: they are there already.
        wanted = replace(configuration.unseal(job.config), late_interaction=False)
        engine = runtime.engine_of(wanted)
        while not stop.is_set():
            found = 0
            for rows in _lacking(job.model_key):
                _store(job, rows, engine, lease, stop)
                found += len(rows)
                show(*measure_progress(job))
                if stop.is_set():
                    return
            if not found:
                now = timezone.now()
                Reembedding.objects.filter(pk=job.pk, embedded_at=None).update(embedded_at=now)
                return


def _lacking(model_key: str) -> Iterator[list[Memory]]:
    """One pass over the memories without a vector of the model, by id."""
    return portions.passed(
        vectors.filter_lacking(model_key).order_by("id"), BATCH, lambda row: row.id
    )


def _store(
    job: Reembedding,
    rows: list[Memory],
    engine: Engine,
    lease: leases.HeldLease,
    stop: threading.Event,
) -> None:
    """Embeds one batch, however often the provider has to be asked."""
    pause = PAUSE_SECONDS
    while not stop.is_set():
        lease.renew()
        if not Reembedding.objects.filter(pk=job.pk, state=Reembedding.State.RUNNING).exists():
            raise ConflictError("The passage to another embedder was cancelled.")
        try:
            vectors.embed_and_store(rows, engine)
        except ProviderError as error:
            _note(job, f"{error.message} {error.cause}".strip())
            if error.code not in failures.PASSING:
                raise
            logger.warning("embedding anew waits for the provider", extra={"code": error.code})
            stop.wait(min(max(pause, error.retry_after or 0), MOST_PAUSE_SECONDS))
            pause *= 2
        else:
            if job.problem:
                _note(job, "")
            return


def _note(job: Reembedding, problem: str) -> None:
    job.problem = problem
    Reembedding.objects.filter(pk=job.pk).update(problem=problem)


def flip(current: Runtime) -> bool:
    """Takes the new embedder into use once all its vectors are made, in the process that holds the
    index: the index of the new model is built beside the old one, which answers until one
    transaction changes index, configuration and the passage's state. Whether it did."""
    job = find_running()
    if job is None or job.embedded_at is None or current.indexer is None:
        return False
    # The other providers may have been configured anew meanwhile.
    target = configuration.unseal(job.config)
    wanted = replace(configuration.current_configuration(), embedder=target.embedder, dims=job.dims)
    engine = runtime.engine_of(wanted, current.engine)

    def commit() -> int:
        with transaction.atomic():
            if not _end(job, Reembedding.State.FLIPPED):
                raise ConflictError("The passage to another embedder was cancelled.")
            kept = configuration.save(wanted, account_id=job.account_id, reason="embedded anew")
            # The server did it, for who began it.
            by = replace(OPERATOR, account_id=job.account_id)
            _record(AuditAction.REEMBEDDING_DONE, job, by)
        return kept.version

    current.use(engine, commit)
    logger.info("search has changed to the new embedder", extra={"model": job.model_key})
    return True


def _record(action: AuditAction, job: Reembedding, actor: Actor) -> None:
    audit.record(
        action,
        actor=actor,
        target=AuditTarget("reembedding", str(job.pk), job.model_key),
        details={"embedding model": [job.former_model_key or None, job.model_key]},
    )


def _end(job: Reembedding, state: Reembedding.State) -> bool:
    ended = Reembedding.objects.filter(pk=job.pk, state=Reembedding.State.RUNNING).update(
        state=state, finished_at=timezone.now()
    )
    return bool(ended)


def _drop(model_key: str) -> int:
    """Removes the vectors of a model, a batch at a time: nobody waits for all of it."""
    return portions.delete(MemoryVector.objects.filter(model_key=model_key), 500)
