"""Counts that took long, kept until a memory changes."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, TypeVar, cast

from django.db.models import Max

from mem0dash.principal import Principal
from memories.models import Revision

T = TypeVar("T")

LONG_SECONDS: Final = 0.05
# Time passes over expiries, and on PostgreSQL a change may be seen after one that came later.
KEEP_SECONDS: Final = 10.0
SIZE: Final = 256


@dataclass(frozen=True, slots=True)
class _Kept:
    newest: int | None
    until: float
    value: Any


_kept: OrderedDict[Hashable, _Kept] = OrderedDict()
_lock = Lock()


def kept(principal: Principal, key: Hashable, count: Callable[[], T]) -> T:
    """What `count` gave for this key, or gives now; one statement more.

    Every change of a memory writes a revision: as long as there is no newer one, counting again
    would give the same. Where that took longer than LONG_SECONDS it is kept for KEEP_SECONDS, or
    ten times as long as it took.
    """
    limit = principal.entity_limit or {}
    limited = tuple(sorted((k, tuple(sorted(v))) for k, v in limit.items()))
    # Days begin elsewhere in another zone, which no revision tells.
    project = (principal.project.id, principal.project.time_zone)
    full = (*project, limited, principal.scopes, key)
    newest = Revision.objects.aggregate(newest=Max("id"))["newest"]
    started = time.monotonic()
    with _lock:
        found = _kept.get(full)
    if found is not None and found.newest == newest and started < found.until:
        return cast(T, found.value)
    value = count()
    took = time.monotonic() - started
    if took > LONG_SECONDS:
        with _lock:
            _kept[full] = _Kept(newest, started + took + max(KEEP_SECONDS, 10 * took), value)
            _kept.move_to_end(full)
            while len(_kept) > SIZE:
                _kept.popitem(last=False)
    return value
