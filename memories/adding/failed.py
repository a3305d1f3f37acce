"""Adds that failed and wait for another attempt, by their reasons."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Count, Max, Min, OuterRef, Subquery

from core.principal import Principal, Scope
from memories.adding import idempotency as ingest

SHOWN_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed adds of one kind. `cause` is what the provider said at the latest of them, and only
    there for who may manage the project."""

    code: str
    reason: str
    count: int
    first: datetime
    last: datetime
    cause: str = ""


@dataclass(frozen=True, slots=True)
class FailedAdds:
    """The project's failed adds, by reason, the latest first; `count` is that of all."""

    count: int = 0
    groups: tuple[FailureGroup, ...] = ()


def summarise_failed_adds(principal: Principal) -> FailedAdds:
    """What failed and can be tried again; scope `read`. One statement."""
    principal.require(Scope.READ)
    failed = ingest.filter_failed(principal.project.id)
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
    shown = tuple(
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
    return FailedAdds(sum(row["count"] for row in groups), shown)
