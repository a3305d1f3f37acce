"""Deletes the memories that a filter matches, one portion per call, for scripts that call in a
loop."""

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
    """The result of one call: at most PORTION memories matched; all of them were deleted, or none
    in a dry run. `has_more` says that more match; `sample` holds the oldest."""

    matched: int
    deleted: int
    has_more: bool
    sample: list[Memory]


def sweep(principal: Principal, where: Node, *, confirm: bool) -> SweepResult:
    """Deletes the oldest matching memories of any status; without `confirm` it only returns them.
    Scope `review`.

    This is an ordinary bulk change: all or nothing, in the history, and it can be undone.
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
        portion, has_more = ids[:PORTION], len(ids) > PORTION
        memories = CandidateReader(rows).memories(portion[:SAMPLE])
        sample = [memories[id_] for id_ in portion[:SAMPLE] if id_ in memories]
        if not confirm or not portion:
            return SweepResult(len(portion), 0, has_more, sample)
        try:
            plan = bulk.plan(principal, "delete", ids=portion)
            operation = bulk.run(principal, plan.token)
        except (ConflictError, NotFoundError):
            continue  # one of them was changed or deleted in between: look again
        return SweepResult(len(portion), operation.done, has_more, sample)
    raise ConflictError("These memories are being changed by others; try again.")
