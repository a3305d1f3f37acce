"""Counts that took long, kept until a memory changes."""

from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar, cast

from django.db.models import Max

from core.kept import Kept
from core.principal import Principal
from memories.models import Revision

T = TypeVar("T")

# Time passes over expiries, and on PostgreSQL a change may be seen after one that came later.
counts: Final[Kept[Any]] = Kept(long=0.05, least=10.0)


def cached_count(principal: Principal, key: Hashable, count: Callable[[], T]) -> T:
    """What `count` gave for this key, or gives now; one statement more.

    Every change of a memory writes a revision: as long as there is no newer one, counting again
    would give the same.
    """
    limit = principal.entity_limit or {}
    limited = tuple(sorted((k, tuple(sorted(v))) for k, v in limit.items()))
    # Days begin at another time in another zone, and a change of zone makes no revision.
    project = (principal.project.id, principal.project.time_zone)
    newest = Revision.objects.aggregate(newest=Max("id"))["newest"]
    return cast(T, counts.get((*project, limited, principal.scopes, key), count, state=newest))
