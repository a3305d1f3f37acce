"""What the page lists: one shape for jobs, and for long work of other rooms with its own state."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from core.principal import Principal


class Group(StrEnum):
    """Where a row is listed. What was cancelled counts as done: nothing is left to do."""

    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the page.

    `at` is when it began, None where nobody knows; what has ended stands in the order of
    `ended_at`. `state` is its word there where that says more
    than the group, `note` what stands beside: how far it is, why it waits or failed, or what it
    came to; `problem` what it has to do with meanwhile. `done` of `total` makes the bar.
    `started_by` is in words, "" for unknown.
    """

    source: str
    id: str
    title: str
    group: Group
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
    # What cancelling means, where that has to be confirmed.
    warning: str = ""
    can_retry: bool = False
    can_hurry: bool = False

    @property
    def colour(self) -> str:
        """Of the state's dot."""
        if self.state == "Cancelled":
            return ""
        if self.problem:
            return "warn"
        return {"running": "info", "waiting": "warn", "failed": "bad", "done": "ok"}[self.group]

    @property
    def percent(self) -> int | None:
        """How far it is, where that is known."""
        return None if self.total is None else min(100, 100 * self.done // max(self.total, 1))


class Source(Protocol):
    """A room's long work, as settings.JOB_SOURCES names it: {name: path}.

    Each method sees what the principal may see, and nothing else; `rows` has the newest first.
    """

    def counts(self, principal: Principal) -> Mapping[Group, int]:
        """How many rows there are of each group."""

    def rows(self, principal: Principal, group: Group, limit: int) -> list[Row]:
        """The newest of a group."""

    def cancel(self, principal: Principal, row_id: str) -> None:
        """NotFoundError where there is none; ConflictError where it cannot be cancelled now."""


@cache
def sources() -> Mapping[str, Source]:
    """All of them, by name."""
    return {name: import_string(path) for name, path in settings.JOB_SOURCES.items()}
