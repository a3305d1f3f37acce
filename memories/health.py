"""The condition of index and providers, for the overview."""

from dataclasses import dataclass, replace
from datetime import datetime

from django.conf import settings

from core.errors import IndexUnavailableError
from memories import runtime
from memories.engine import configuration, hints
from memories.engine.calls import CallRecord
from memories.engine.catalogue import PROVIDERS, Kind, ProviderChoice
from memories.index import rows
from memories.models.server import IndexState, Reembedding
from memories.providers import reembedding


@dataclass(frozen=True, slots=True)
class IndexCondition:
    """The search index as this process and the database know it.

    `waiting` changes are not in the index yet; `building` is true while a new index is being built
    or requested.
    """

    place: str
    building: bool
    waiting: int
    built_at: datetime | None
    settled_at: datetime | None


def index_condition() -> IndexCondition:
    """The progress of the index. `runtime.check_index` tells whether it answers."""
    state = IndexState.objects.filter(name="default").first()
    current = _runtime()
    indexer = current.indexer if current else None
    return IndexCondition(
        place="On the Qdrant server" if settings.QDRANT_URL else "Embedded",
        building=bool(indexer and indexer.is_building) or bool(state and state.wants_rebuild),
        waiting=count_unindexed(),
        built_at=state.built_at if state else None,
        settled_at=current.settled_at if current else None,
    )


def count_unindexed() -> int:
    """How many changes the index has not applied yet. One statement."""
    current = _runtime()
    indexer = current.indexer if current else None
    # Changes that are applied but not on disk yet can be found already.
    return max(0, rows.filter_pending().count() - (indexer.unsettled if indexer else 0))


@dataclass(frozen=True, slots=True)
class ProviderCondition:
    """An LLM or embedder in use. `title` is "" if none is configured; `usable` is False if it
    cannot be set up or called. It last answered at `answered_at`, or has failed since
    `failing_since`."""

    kind: Kind
    title: str
    model: str
    address: str
    usable: bool
    answered_at: datetime | None = None
    failing_since: datetime | None = None
    message: str = ""
    cause: str = ""
    hint: str = ""


def provider_conditions() -> list[ProviderCondition]:
    """The LLM and the embedder of this process, with the outcome of their latest calls."""
    configured, current = configuration.current_configuration(), _runtime()
    engine = current.engine if current else None
    llm = engine.llm if engine else None
    calls = getattr(llm, "calls", None)
    return [
        _condition(
            "llm", configured.llm, calls, usable=configured.llm is None or calls is not None
        ),
        _condition(
            "embedder",
            configured.embedder,
            engine.calls if engine else None,
            usable=engine is not None and engine.embedder is not None,
            local_model=engine.model_key if engine else "",
        ),
    ]


def _runtime() -> runtime.Runtime | None:
    try:
        return runtime.get_runtime()
    except IndexUnavailableError:
        return None


def _condition(
    kind: Kind,
    choice: ProviderChoice | None,
    calls: CallRecord | None,
    *,
    usable: bool,
    local_model: str = "",
) -> ProviderCondition:
    if choice is not None:
        provider = PROVIDERS[choice.provider]
        title, model = provider.title.partition(",")[0], choice.model
        address = str(choice.config.get(provider.address) or "") if provider.address else ""
    else:
        # Without a choice the embedder is the local model, and there is no LLM.
        title, model, address = "" if kind == "llm" else "Local model", local_model, ""
    condition = ProviderCondition(kind, title, model, address, usable)
    if calls is None:
        return condition
    # Read once, because another thread may write it.
    failure = calls.failure
    if failure is None:
        return replace(condition, answered_at=calls.answered_at)
    return replace(
        condition,
        failing_since=calls.failing_since,
        message=failure.message,
        cause=failure.cause,
        hint=hints.hint(failure, choice, kind) if choice else "",
    )


@dataclass(frozen=True, slots=True)
class PassageCondition:
    """A change of embedder: the running one, or the latest."""

    running: bool
    model: str
    former: str
    started_at: datetime
    finished_at: datetime | None
    problem: str
    done: int = 0
    total: int = 0


def passage_condition() -> PassageCondition | None:
    """The running change of embedder, else the latest completed one."""
    job = (
        Reembedding.objects.exclude(state=Reembedding.State.CANCELLED)
        .order_by("-started_at", "-id")
        .first()
    )
    if job is None:
        return None
    running = job.state == Reembedding.State.RUNNING
    done, total = reembedding.measure_progress(job) if running else (0, 0)
    return PassageCondition(
        running=running,
        model=job.model_key,
        former=job.former_model_key or "words only",
        started_at=job.started_at,
        finished_at=job.finished_at,
        problem=job.problem if running else "",
        done=done,
        total=total,
    )
