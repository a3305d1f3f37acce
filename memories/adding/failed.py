"""Failed adds that can be retried, grouped by reason."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Count, Max, Min, OuterRef, Subquery

from core.principal import Principal, Scope
from memories.adding import idempotency

SHOWN_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed adds of one kind. `cause` is the provider's message for the latest of them, and empty
    unless the caller may manage the project."""

    code: str
    reason: str
    count: int
    first: datetime
    last: datetime
    cause: str = ""


@dataclass(frozen=True, slots=True)
class FailedAdds:
    """The project's failed adds by reason, the latest first; `count` covers all reasons."""

    count: int = 0
    groups: tuple[FailureGroup, ...] = ()


def summarise_failed_adds(principal: Principal) -> FailedAdds:
    """The failed adds that can be retried; scope `read`. One statement."""
    principal.require(Scope.READ)
    failed = idempotency.filter_failed(principal.project.id)
    latest = failed.filter(code=OuterRef("code"), reason=OuterRef("reason"))
    groups = list(
        failed.values("code", "reason")
        .annotate(
            count=Count("id"),
            first=Min("created_at"),
            last=Max("created_at"),
            cause=Subquery(latest.order_by("-created_at").values("cause")[:1]),
        )
        .order_by("-last")
    )
    may_see = Scope.ADMIN in principal.scopes
    groups_shown = tuple(
        FailureGroup(
            code=row["code"],
            reason=row["reason"],
            count=row["count"],
            first=row["first"],
            last=row["last"],
            cause=row["cause"] if may_see else "",
        )
        for row in groups[:SHOWN_FAILURES]
    )
    return FailedAdds(sum(row["count"] for row in groups), groups_shown)
