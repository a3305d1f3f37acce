"""What the overview tells: how much is stored, what failed, and how index and providers are."""

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

    `waiting` changes are not in it yet; `building` holds while another one is made, or wanted.
    """

    place: str
    building: bool
    waiting: int
    built_at: datetime | None
    settled_at: datetime | None


def index_condition() -> IndexCondition:
    """How far the index is; whether it answers, `runtime.check_index` tells."""
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
    # What is applied here and not on disk yet is found already.
    return max(0, rows.filter_pending().count() - (indexer.unsettled if indexer else 0))


@dataclass(frozen=True, slots=True)
class ProviderCondition:
    """An LLM or embedder in use. `title` is "" where none is chosen; `usable` is False where it
    cannot be set up or asked. It last answered at `answered_at`, or fails since `failing_since`."""

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
    """The LLM and the embedder that this process uses, as their latest calls found them."""
    used, current = configuration.current_configuration(), _runtime()
    engine = current.engine if current else None
    llm = engine.llm if engine else None
    calls = getattr(llm, "calls", None)
    return [
        _condition("llm", used.llm, calls, usable=used.llm is None or calls is not None),
        _condition(
            "embedder",
            used.embedder,
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
        # The embedder that nobody chose is the one on this machine; an LLM is not there at all.
        title, model, address = "" if kind == "llm" else "Local model", local_model, ""
    found = ProviderCondition(kind, title, model, address, usable)
    if calls is None:
        return found
    # Read once: another thread may be about to write it.
    failure = calls.failure
    if failure is None:
        return replace(found, answered_at=calls.answered_at)
    return replace(
        found,
        failing_since=calls.failing_since,
        message=failure.message,
        cause=failure.cause,
        hint=hints.hint(failure, choice, kind) if choice else "",
    )


@dataclass(frozen=True, slots=True)
class PassageCondition:
    """A change of embedder: under way, or the latest one."""

    running: bool
    model: str
    former: str
    started_at: datetime
    finished_at: datetime | None
    problem: str
    done: int = 0
    total: int = 0


def passage_condition() -> PassageCondition | None:
    """The change of embedder that is under way, else the latest one that went through."""
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
