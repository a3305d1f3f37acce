"""Deletes what a filter matches, a portion a call: for scripts that repeat until it is done."""

from dataclasses import dataclass
from typing import Final

from core.errors import ConflictError, NotFoundError
from core.principal import Principal, Scope
from memories import visibility
from memories.bulk import service as bulk
from memories.filters import Node, to_q
from memories.models import Memory
from memories.search.candidates import CandidateReader

PORTION: Final = bulk.AT_ONCE
SAMPLE: Final = 10
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a call found, at most PORTION of it, and how much of that it deleted: all or, in a dry
    run, none. `has_more` says that more match; `sample` holds the oldest."""

    matched: int
    deleted: int
    has_more: bool
    sample: list[Memory]


def sweep(principal: Principal, where: Node, *, confirm: bool) -> SweepResult:
    """Deletes the oldest memories that match, whatever their status; without `confirm` it only
    tells which. Scope `review`.

    It is a bulk change as any other: all or nothing, in the history, and undone as those are.
    ConflictError when others keep changing these memories.
    """
    principal.require(Scope.REVIEW)
    rows = (
        visibility.filter_reachable(principal)
        .filter(to_q(where, principal.project.zone))
        .order_by("created_at", "id")
    )
    for _ in range(_ATTEMPTS):
        ids = list(rows.values_list("id", flat=True)[: PORTION + 1])
        chosen, has_more = ids[:PORTION], len(ids) > PORTION
        found = CandidateReader(rows).memories(chosen[:SAMPLE])
        sample = [found[id_] for id_ in chosen[:SAMPLE] if id_ in found]
        if not confirm or not chosen:
            return SweepResult(len(chosen), 0, has_more, sample)
        try:
            plan = bulk.plan(principal, "delete", ids=chosen)
            done = bulk.run(principal, plan.token)
        except (ConflictError, NotFoundError):
            continue  # one of them was changed or deleted in between: look again
        return SweepResult(len(chosen), done.done, has_more, sample)
    raise ConflictError("These memories are being changed by others; try again.")
