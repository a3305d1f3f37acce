"""The rows of the Jobs page: one shape for jobs and for the long work of other rooms."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from core.principal import Principal


class JobGroup(StrEnum):
    """The tab that lists a row. A cancelled job counts as done."""

    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class JobRow:
    """One line of the page.

    `at` is when it began, None if unknown; ended rows are sorted by `ended_at`. `state` replaces
    the word of the group where it says more. `note` is its progress, the reason why it waits or
    failed, or its result; `problem` is what hinders it while it runs. `done` of `total` makes the
    bar. `started_by` is a name, "" if unknown.
    """

    source: str
    id: str
    title: str
    group: JobGroup
    at: datetime | None
    ended_at: datetime | None = None
    about: str = ""
    state: str = ""
    note: str = ""
    problem: str = ""
    done: int = 0
    total: int | None = None
    started_by: str = ""
    url: str = ""
    can_cancel: bool = False
    # The consequences of cancelling, if a page has to ask first.
    warning: str = ""
    can_retry: bool = False
    can_hurry: bool = False

    @property
    def colour(self) -> str:
        """The colour of the state's dot."""
        if self.state == "Cancelled":
            return ""
        if self.problem:
            return "warn"
        return {"running": "info", "waiting": "warn", "failed": "bad", "done": "ok"}[self.group]

    @property
    def percent(self) -> int | None:
        """The progress, None if unknown."""
        return None if self.total is None else min(100, 100 * self.done // max(self.total, 1))


class JobSource(Protocol):
    """The long work of a room, as settings.JOB_SOURCES names it: {name: path}.

    Each method sees what the principal may see, and nothing else; `rows` has the newest first.
    """

    def counts(self, principal: Principal) -> Mapping[JobGroup, int]:
        """How many rows there are of each group."""

    def rows(self, principal: Principal, group: JobGroup, limit: int) -> list[JobRow]:
        """The newest of a group."""

    def cancel(self, principal: Principal, row_id: str) -> None:
        """NotFoundError if there is no such row; ConflictError if it cannot be cancelled now."""


@cache
def job_sources() -> Mapping[str, JobSource]:
    """All sources, by name."""
    return {name: import_string(path) for name, path in settings.JOB_SOURCES.items()}
