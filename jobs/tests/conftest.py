"""Kinds of jobs that exist in one test alone, and processes that do them by hand."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from jobs import claims, kinds, queue, runner
from jobs.kinds import Kind
from jobs.models import Job

MakeKind = Callable[..., Kind]


@pytest.fixture(autouse=True)
def _no_other_kinds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kind]:
    made: dict[str, Kind] = {}
    monkeypatch.setattr(kinds, "known_kinds", lambda: made)
    return made


@pytest.fixture
def make_kind(_no_other_kinds: dict[str, Kind]) -> MakeKind:
    """`make_kind(handler, name=…, …)`: a kind of job that this process knows."""

    def make(handler: Any = lambda run: None, *, name: str = "test.work", **rest: Any) -> Kind:
        made = Kind(name=name, title=rest.pop("title", "Test work"), handler=handler, **rest)
        _no_other_kinds[name] = made
        return made

    return make


@pytest.fixture
def put(project: Any, make_kind: MakeKind, _no_other_kinds: dict[str, Kind]) -> Any:
    """Puts a job of project Default into the queue."""

    def enqueue(name: str = "test.work", **rest: Any) -> Job:
        if name not in _no_other_kinds:
            make_kind(name=name)
        return queue.enqueue(name, project_id=rest.pop("project_id", project.id), **rest)

    return enqueue


def claim(*names: str, turns: claims.ProjectRotation | None = None) -> Job | None:
    """What a process with these kinds, or all, would do next."""
    return claims.claim(names or list(kinds.known_kinds()), turns or claims.ProjectRotation())


def run_next(*, stop: threading.Event | None = None) -> Job:
    """Does the next job to its end; how it stands then."""
    job = claim()
    assert job is not None
    runner.run_job(job, stop or threading.Event())
    job.refresh_from_db()
    return job
