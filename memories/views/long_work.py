"""Long work that keeps its own state, in the words of the page of the jobs."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from django.urls import reverse

from core.errors import ConflictError, NotFoundError
from core.kept import Kept
from core.principal import Principal
from jobs import leases
from jobs.rows import JobGroup, JobRow
from memories.backfill import token_states as token_work
from memories.bulk import service as bulk
from memories.models.bulk import Operation
from memories.models.server import Reembedding
from memories.providers import reembedding
from memories.providers.late_interaction import status
from memories.views.bulk.operations import STATES
from memories.views.bulk.plan import done_words
from memories.views.bulk.words import ACTIONS, count_words

# How much of how much is done. A million memories take seconds to count: at most a twentieth of
# the time goes into it.
_progress: Final[Kept[tuple[int, int]]] = Kept(long=0.0, times=20)


def _far(done: int, total: int) -> str:
    return f"{done:,} of {total:,}" if total else ""


class BulkChanges:
    """The bulk changes of the project."""

    _GROUPS: Final[Mapping[JobGroup, tuple[Operation.State, ...]]] = {
        JobGroup.RUNNING: (
            Operation.State.PREPARING,
            Operation.State.RUNNING,
            Operation.State.UNDOING,
        ),
        JobGroup.WAITING: (),
        JobGroup.FAILED: (Operation.State.STOPPED,),
        JobGroup.DONE: (Operation.State.DONE, Operation.State.UNDONE, Operation.State.CANCELLED),
    }

    def counts(self, principal: Principal) -> Mapping[JobGroup, int]:
        by_state = bulk.count_by_state(principal)
        return {
            group: sum(by_state.get(state, 0) for state in states)
            for group, states in self._GROUPS.items()
        }

    def rows(self, principal: Principal, group: JobGroup, limit: int) -> list[JobRow]:
        states = self._GROUPS[group]
        rows = bulk.recent(principal, limit, states=states) if states else []
        return [self._row(one, group) for one in rows]

    def cancel(self, principal: Principal, row_id: str) -> None:
        bulk.cancel(principal, row_id)

    def _row(self, one: Operation, group: JobGroup) -> JobRow:
        is_back = one.state == Operation.State.UNDOING
        done, total = (one.undone + one.left, one.done) if is_back else (one.handled, one.count)
        state = Operation.State(one.state)
        note = one.problem if group == JobGroup.FAILED else f"{done_words(one)}"
        by = one.account.name or one.account.email if one.account else ""
        return JobRow(
            source="bulk",
            id=str(one.id),
            title=f"{ACTIONS[one.action].name}: {count_words(one.count)}",
            about=one.words,
            group=group,
            at=one.created_at,
            ended_at=one.finished_at,
            state=STATES[state][0],
            note=_far(done, total) if group == JobGroup.RUNNING else note,
            problem=one.problem if group == JobGroup.RUNNING else "",
            done=done,
            total=total if group == JobGroup.RUNNING else None,
            started_by=by or (f"key {one.key_prefix}…" if one.key_prefix else ""),
            url=reverse("memories:operation", args=[one.id]),
            can_cancel=state in {Operation.State.PREPARING, Operation.State.RUNNING},
        )


class Reembeddings:
    """Passages to another embedding model; the instance owner's."""

    _GROUPS: Final[Mapping[JobGroup, tuple[Reembedding.State, ...]]] = {
        JobGroup.RUNNING: (Reembedding.State.RUNNING,),
        JobGroup.WAITING: (),
        JobGroup.FAILED: (),
        JobGroup.DONE: (Reembedding.State.FLIPPED, Reembedding.State.CANCELLED),
    }
    _WARNING: Final = (
        "The new vectors made so far are removed, and what the provider charged for them is lost. "
        "Search is not affected: it uses the former model all along."
    )

    def counts(self, principal: Principal) -> Mapping[JobGroup, int]:
        if not _is_owner(principal):
            return {}
        states = Counter(reembedding.all_of().values_list("state", flat=True))
        return {group: sum(states[state] for state in of) for group, of in self._GROUPS.items()}

    def rows(self, principal: Principal, group: JobGroup, limit: int) -> list[JobRow]:
        if not _is_owner(principal):
            return []
        rows = reembedding.all_of().filter(state__in=self._GROUPS[group]).order_by("-id")
        return [self._row(one, group) for one in rows.select_related("account")[:limit]]

    def cancel(self, principal: Principal, row_id: str) -> None:
        if not _is_owner(principal):
            raise NotFoundError("No such job.")
        running = reembedding.find_running()
        if running is None or str(running.pk) != row_id:
            raise ConflictError("The re-embedding has ended already.")
        reembedding.cancel(principal, drop_later=True)

    def _row(self, one: Reembedding, group: JobGroup) -> JobRow:
        done, total = 0, None
        note = "In use since then" if one.state == Reembedding.State.FLIPPED else ""
        if group == JobGroup.RUNNING:
            name = f"reembedding {one.pk}"
            done, total = _progress.get(name, lambda: reembedding.measure_progress(one))
            note = "Building the index" if one.embedded_at else _far(done, total)
        return JobRow(
            source="reembedding",
            id=str(one.pk),
            title="Re-embed memories",
            about=f"With {one.model_key}",
            group=group,
            at=one.started_at,
            ended_at=one.finished_at,
            state="Cancelled" if one.state == Reembedding.State.CANCELLED else "",
            note=note,
            problem=one.problem if group == JobGroup.RUNNING else "",
            done=done,
            total=total,
            started_by=(one.account.name or one.account.email) if one.account else "",
            can_cancel=group == JobGroup.RUNNING,
            warning=self._WARNING,
        )


class WordVectors:
    """Token states that are being made; the instance owner's. They are listed only meanwhile."""

    def counts(self, principal: Principal) -> Mapping[JobGroup, int]:
        return {JobGroup.RUNNING: len(self.rows(principal, JobGroup.RUNNING, 1))}

    def rows(self, principal: Principal, group: JobGroup, limit: int) -> list[JobRow]:
        is_at_work = group == JobGroup.RUNNING and _is_owner(principal)
        if not is_at_work or not leases.is_held(token_work.LEASE):
            return []
        done, total = _progress.get("words", lambda: self._made(principal))
        if done >= total:
            return []
        return [
            JobRow(
                source="late-interaction",
                id="all",
                title="Store word vectors",
                about="For late interaction, which can be switched off in Settings",
                group=group,
                at=None,
                note=_far(done, total),
                done=done,
                total=total,
            )
        ]

    def cancel(self, principal: Principal, row_id: str) -> None:
        if not _is_owner(principal):
            raise NotFoundError("No such job.")
        raise ConflictError("Switch late interaction off in Settings to end this.")

    def _made(self, principal: Principal) -> tuple[int, int]:
        current = status(principal)
        return current.made, current.live


def _is_owner(principal: Principal) -> bool:
    return principal.is_owner and principal.entity_limit is None


BULK: Final = BulkChanges()
REEMBEDDING: Final = Reembeddings()
TOKEN_STATES: Final = WordVectors()
