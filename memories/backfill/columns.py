"""Fills new columns in existing rows, in portions, while the server runs."""

import time
from typing import Any, Final

from django.db import models
from django.db.models import OuterRef, Subquery

from jobs.kinds import Kind
from jobs.running import JobRun
from memories.models import Memory, MemoryTokens, MemoryVector

# The migration that adds the columns puts one such job into the queue.
PROJECTS: Final = "memories.fill-projects"
BATCH: Final = 500
MOST_REST_SECONDS: Final = 1.0
_TABLES: Final = (MemoryVector, MemoryTokens)


def fill_projects(run: JobRun) -> None:
    """Gives vectors and token states the project of their memory.

    Repeats until a pass finds no row without a project, because a pass skips rows that others have
    locked, and processes of the previous version may write more.
    """
    total, has_rows = run.job.done, True
    while has_rows:
        has_rows = False
        for model in _TABLES:
            last: Any = None
            started = time.monotonic()
            while page := _next_page(model, last):
                with run.step(total + len(page)):
                    _fill(model, page)
                total, last, has_rows = total + len(page), page[-1], True
                # Requests take precedence.
                run.stop.wait(min(time.monotonic() - started, MOST_REST_SECONDS))
                started = time.monotonic()
    with run.finishing(f"{total:,} rows filled"):
        pass


def _next_page(model: type[models.Model], last: Any) -> list[Any]:
    """The keys of the next rows without a project, in order."""
    rows = model._base_manager.filter(project=None).order_by("pk")
    if last is not None:
        rows = rows.filter(pk__gt=last)
    return list(rows.values_list("pk", flat=True)[:BATCH])


def _fill(model: type[models.Model], page: list[Any]) -> None:
    project = Memory.objects.filter(id=OuterRef("memory_id")).values("project_id")
    # Skips locked rows, so that it can never be part of a deadlock.
    locked = model._base_manager.select_for_update(skip_locked=True).filter(pk__in=page)
    mine = list(locked.values_list("pk", flat=True))
    model._base_manager.filter(pk__in=mine).update(project_id=Subquery(project))


FILLING: Final = Kind(
    name=PROJECTS,
    title="Update stored vectors",
    about=lambda _: "Adds the project to vectors stored by an earlier version",
    handler=fill_projects,
)
