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
    """Asks every part in settings.HEALTH_CHECKS; the quiet ones count only while unwell."""
    asked = [_asked(name, path) for name, path in settings.HEALTH_CHECKS.items()]
    return [c for c in asked if not (c.is_well and c.name in settings.QUIET_HEALTH_CHECKS)]


def _asked(name: str, path: str) -> Condition:
    check: Callable[[], None] = import_string(path)
    started, problem, is_well = time.perf_counter(), "", True
    try:
        check()
    except Mem0dashError as error:
        logger.exception("health check failed", extra={"part": name})
        problem, is_well = error.message, False
    except Exception:
        logger.exception("health check failed", extra={"part": name})
        problem, is_well = "It does not answer.", False
    ms = round((time.perf_counter() - started) * 1000, 1)
    known = _since.get(name)
    if known is None or known[0] != is_well:
        # Of two threads at once either may write it: both have seen the change just now.
        known = _since[name] = (is_well, timezone.now())
    return Condition(name, is_well, known[1], ms, problem)
