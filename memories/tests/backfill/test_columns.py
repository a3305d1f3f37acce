"""Vectors and token states name their project: new ones at once, those from before by a job."""

import threading
from typing import Any
from uuid import UUID

import pytest

from accounts.models import Project
from jobs import claims, queue, runner
from jobs.models import Job
from memories.backfill import columns, vectors
from memories.backfill import token_states as token_work
from memories.editing import service as services
from memories.models import Memory, MemoryTokens, MemoryVector
from memories.tests.actions import add
from memories.tests.token_words import WordReader, with_reader

TABLES = (MemoryVector, MemoryTokens)


@pytest.fixture
def reader(engine: Any) -> WordReader:
    return with_reader(engine, WordReader())


def projects() -> list[set[UUID | None]]:
    """Of which projects there are vectors, and states."""
    return [set(model.objects.values_list("project_id", flat=True)) for model in TABLES]


def as_from_before() -> None:
    for model in TABLES:
        model.objects.update(project=None)


def fill() -> Job:
    """Queues the job and does it to its end."""
    queue.enqueue(columns.PROJECTS, project_id=None)
    return run()


def run(stop: threading.Event | None = None) -> Job:
    job = claims.claim([columns.PROJECTS], claims.ProjectRotation())
    assert job is not None
    runner.run_job(job, stop or threading.Event())
    job.refresh_from_db()
    return job


def test_whatever_makes_a_vector_or_states_names_the_project(
    owner: Any, engine: Any, reader: WordReader
) -> None:
    [one] = add(owner, "green tea")
    of_owner = [{owner.project.id}] * 2
    assert projects() == of_owner
    services.update_memory(owner, one, text="black tea")
    assert projects() == of_owner
    for model in TABLES:
        model.objects.all().delete()
    assert vectors.embed_missing(engine) == 1
    assert projects() == of_owner
    MemoryTokens.objects.all().delete()
    assert token_work.make_missing(engine) == 1
    assert projects() == of_owner


def test_rows_from_before_get_the_project_of_their_memory(
    owner: Any, engine: Any, reader: WordReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BATCH", 2)
    ids = [add(owner, f"green tea number {n}")[0] for n in range(5)]
    other = Project.objects.create(slug="other", name="Other")
    Memory.objects.filter(id=ids[0]).update(project=other)
    as_from_before()
    before = list(MemoryVector.objects.order_by("id").values_list("memory_id", "data"))
    told = list(Memory.objects.order_by("id").values_list("rev", "updated_at"))
    job = fill()
    assert (job.state, job.result) == ("succeeded", "10 rows filled")
    for model in TABLES:
        found = dict(model.objects.values_list("memory_id", "project_id"))
        assert found == dict.fromkeys(ids, owner.project.id) | {ids[0]: other.id}
    assert list(MemoryVector.objects.order_by("id").values_list("memory_id", "data")) == before
    assert list(Memory.objects.order_by("id").values_list("rev", "updated_at")) == told


def test_a_job_that_was_cut_off_goes_on_and_leaves_nothing_out(
    owner: Any, engine: Any, reader: WordReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BATCH", 2)
    for number in range(5):
        add(owner, f"green tea number {number}")
    as_from_before()
    stop, real = threading.Event(), columns._fill

    def fill_and_stop(model: Any, page: Any) -> None:
        real(model, page)
        stop.set()

    monkeypatch.setattr(columns, "_fill", fill_and_stop)
    queue.enqueue(columns.PROJECTS, project_id=None)
    assert run(stop).state == "queued"
    assert MemoryVector.objects.filter(project=None).count() == 3
    monkeypatch.setattr(columns, "_fill", real)
    assert run().state == "succeeded"
    assert projects() == [{owner.project.id}] * 2


def test_without_rows_from_before_the_job_ends_at_once(owner: Any, engine: Any) -> None:
    add(owner, "green tea")
    assert fill().result == "0 rows filled"
