"""The health of all components in words: the state, since when, and what to do."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from django.db import connection

from memories.health import (
    IndexCondition,
    PassageCondition,
    ProviderCondition,
    index_condition,
    passage_condition,
    provider_conditions,
)
from operations.health import ComponentHealth, check_health


@dataclass(frozen=True, slots=True)
class ComponentView:
    """One part of the server. `state` is ok, info, warn or bad, and `word` says it; `since_word`
    stands before `since`. `todo` is for people, `command` for the command line."""

    name: str
    icon: str
    state: str
    word: str
    detail: str
    since: datetime | None = None
    since_word: str = "since"
    todo: str = ""
    command: str = ""
    cause: str = ""
    progress: tuple[int, int] | None = None

    @property
    def is_problem(self) -> bool:
        return self.state in {"warn", "bad"}


# By the condition's state: the word for it, and what to do.
_DATABASE_TROUBLE: Final = {
    "failing": (
        "Not answering",
        "Look at the server's log, and at the database itself. It is tried again all the time.",
    ),
    "locked": (
        "Locked",
        "Find the program that holds the lock, such as a backup or an open database tool. Writing "
        "goes on as soon as the lock is released.",
    ),
    "full": ("Disk full", "Free some space on the disk of the database. Writing then goes on."),
    "read-only": (
        "Read-only",
        "Make the database file and its directory writable for the user that runs the server.",
    ),
    "lost": (
        "File missing",
        "Move the file back to where it was. Where it is gone, export the memories while they can "
        "be read, stop the server, restore a backup and start again.",
    ),
}
# Every page shows how many components need attention, so the answer is kept for a while.
FRESH_SECONDS: Final = 10.0
_latest: tuple[float, int] = (0.0, -1)


def count_problems() -> int:
    """How many components need attention; at most FRESH_SECONDS old."""
    asked_at, count = _latest
    if count >= 0 and time.monotonic() - asked_at < FRESH_SECONDS:
        return count
    return sum(part.is_problem for part in list_components(may_manage=False))


def list_components(*, may_manage: bool) -> list[ComponentView]:
    """Every component, asked now. Only administrators see causes and commands."""
    global _latest
    health = {condition.name: condition for condition in check_health()}
    components = [
        _database(health["database"]),
        _index(index_condition(), health["index"]),
        *map(_provider, provider_conditions()),
        *_jobs(passage_condition()),
        *_disk(health.get("disk")),
    ]
    _latest = (time.monotonic(), sum(part.is_problem for part in components))
    return components if may_manage else [_without_details(part) for part in components]


def _without_details(part: ComponentView) -> ComponentView:
    todo = "Tell an administrator of this server." if part.is_problem else ""
    return replace(part, todo=todo, command="", cause="")


def _database(health: ComponentHealth) -> ComponentView:
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[connection.vendor]
    if health.is_well:
        detail = f"{name} answers in {'less than 1' if health.ms < 1 else round(health.ms)} ms"
        return ComponentView("Database", "database", "ok", "In order", detail, health.since)
    word, todo = _DATABASE_TROUBLE[health.state]
    return ComponentView(
        "Database", "database", "bad", word, health.problem, health.since, todo=todo
    )


def _index(index: IndexCondition, health: ComponentHealth) -> ComponentView:
    name, icon = "Search index", "list-search"
    if index.building:
        return ComponentView(
            name,
            icon,
            "info" if health.is_well else "warn",
            "Being built",
            "A new one is built from the database; the old one answers meanwhile"
            if health.is_well
            else health.problem,
            None if health.is_well else health.since,
            todo="Nothing: it ends by itself. Memories can be read and changed meanwhile.",
        )
    if not health.is_well:
        return ComponentView(
            name,
            icon,
            "bad",
            "Not answering",
            health.problem,
            health.since,
            todo="Memories can be read and added, not searched. Look at the server's log"
            + (" and at the Qdrant server." if "Qdrant" in index.place else ", or build it anew."),
            command="" if "Qdrant" in index.place else "manage.py rebuild_index",
        )
    if index.waiting:
        few = "1 change is" if index.waiting == 1 else f"{index.waiting:,} changes are"
        detail = f"{index.place}; {few} on the way into it"
        return ComponentView(name, icon, "info", "Catching up", detail, index.settled_at, "on disk")
    detail = f"{index.place}; all memories are in it"
    return ComponentView(name, icon, "ok", "In order", detail, index.built_at, "built")


def _disk(health: ComponentHealth | None) -> Iterator[ComponentView]:
    """Only where something is wrong with it."""
    if health is not None and not health.is_well:
        yield ComponentView(
            "Disk",
            "database",
            "bad",
            "Not writable" if "read" in health.problem else "Full",
            health.problem,
            health.since,
            todo="Free some space on the server, or delete memories. Storing resumes by itself.",
        )


def _provider(condition: ProviderCondition) -> ComponentView:
    is_llm = condition.kind == "llm"
    name, icon = ("Language model", "brain") if is_llm else ("Embedder", "cpu")
    if not condition.title:
        detail = "None is configured: messages are kept word for word"
        return ComponentView(name, icon, "info", "Not in use", detail)
    what = " · ".join(filter(None, (condition.title, condition.model, condition.address)))
    if not condition.usable:
        todo, command = _not_ready(condition)
        return ComponentView(name, icon, "warn", "Not ready", what, todo=todo, command=command)
    if condition.failing_since is not None:
        return ComponentView(
            name,
            icon,
            "bad",
            "Failing",
            f"{what}. {condition.message}",
            condition.failing_since,
            todo=condition.hint or "It is asked again with the next request.",
            command="manage.py check_providers",
            cause=condition.cause,
        )
    if condition.answered_at is None:
        return ComponentView(name, icon, "ok", "Ready", what)
    return ComponentView(name, icon, "ok", "In order", what, condition.answered_at, "answered")


def _not_ready(condition: ProviderCondition) -> tuple[str, str]:
    """What to do about a provider that cannot be used, and the command for it."""
    if condition.kind == "llm":
        todo = "It cannot be set up: adds that need it fail, and are kept. Look at its settings."
        return todo, "manage.py check_providers"
    if condition.title == "Local model":
        todo = "Search is by words alone until the model is prepared and the server restarted."
        return todo, "manage.py prepare_embedder"
    todo = "Search is by words alone until it answers. It is asked again every 30 seconds."
    return todo, "manage.py check_providers"


def _jobs(passage: PassageCondition | None) -> Iterator[ComponentView]:
    name, icon = "Change of embedder", "refresh"
    if passage is None:
        return
    way = f"From {passage.former} to {passage.model}"
    if not passage.running:
        yield ComponentView(name, icon, "ok", "Done", way, passage.finished_at, "")
        return
    detail = f"{way}: {passage.done:,} of {passage.total:,} memories"
    progress = (passage.done, max(passage.total, 1))
    if not passage.problem:
        todo = "Search stays with the former one until the last is done."
        yield ComponentView(
            name,
            icon,
            "info",
            "Under way",
            detail,
            passage.started_at,
            todo=todo,
            progress=progress,
        )
        return
    yield ComponentView(
        name,
        icon,
        "warn",
        "Waiting",
        detail,
        passage.started_at,
        todo="The new embedder does not answer as it should; it is asked again by itself.",
        command="manage.py reembed --status",
        cause=passage.problem,
        progress=progress,
    )
