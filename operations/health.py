"""Health that tells the truth: each part is asked, not assumed."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection
from django.utils import timezone
from django.utils.module_loading import import_string

from mem0dash.errors import Mem0dashError

logger = logging.getLogger(__name__)


def check_database() -> None:
    """Raises when the database does not answer."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@dataclass(frozen=True, slots=True)
class Condition:
    """How a part of settings.HEALTH_CHECKS was found: `since` is when this process first found it
    so, without a change in between; `problem` says why it is not well, `ms` how long it took."""

    name: str
    is_well: bool
    since: datetime
    ms: float
    problem: str = ""


_since: dict[str, tuple[bool, datetime]] = {}


def conditions() -> list[Condition]:
    """Asks every part in settings.HEALTH_CHECKS."""
    return [_asked(name, path) for name, path in settings.HEALTH_CHECKS.items()]


def _asked(name: str, path: str) -> Condition:
    check: Callable[[], None] = import_string(path)
    started, problem, cause = time.perf_counter(), "", ""
    try:
        check()
    except Mem0dashError as error:
        problem = cause = error.message
    except Exception as error:  # noqa: BLE001  (whatever it is, the part is out of order)
        problem, cause = "It does not answer.", f"{type(error).__name__}: {error}".strip()
    ms = round((time.perf_counter() - started) * 1000, 1)
    return Condition(name, not problem, _noted(name, not problem, cause), ms, problem)


def _noted(name: str, is_well: bool, cause: str) -> datetime:
    """Since when the part is so; a change is told to the log, and nothing else: monitors ask every
    few seconds."""
    known = _since.get(name)
    if known is not None and known[0] == is_well:
        return known[1]
    # Of two threads at once either may write it: both have seen the change just now.
    _since[name] = (is_well, timezone.now())
    if not is_well:
        logger.error("health check failed", extra={"part": name, "cause": cause[:500]})
    elif known is not None:
        logger.info("health check passes again", extra={"part": name})
    return _since[name][1]
