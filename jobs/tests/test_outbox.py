"""Events: written only where somebody listens, delivered in order for each memory."""

import uuid
from typing import Any

import pytest
from django.db import transaction

from accounts.models import Project
from core.errors import IndexUnavailableError
from jobs import outbox
from jobs.models import Event, Job
from jobs.outbox import Subscriber
from jobs.tests.conftest import claim, run_next

State = Job.State
pytestmark = pytest.mark.django_db


class Listener:
    """A subscriber that writes down what it hears, unless it is down."""

    def __init__(self, name: str, project: Project, backoff: tuple[float, ...] = (3600.0,)) -> None:
        self.heard: list[tuple[Any, str]] = []
        self.is_down = False
        self.project = project
        self.subscriber = Subscriber(
            name=name, title=name, wants=self.wants, deliver=self.deliver, backoff=backoff
        )

    def wants(self, project_id: uuid.UUID, kind: str) -> bool:
        return project_id == self.project.id and kind.startswith("memory.")

    def deliver(self, run: Any, event: Event) -> None:
        if self.is_down:
            raise IndexUnavailableError("The receiver is down.")
        self.heard.append((event.memory_id, event.kind))


@pytest.fixture
def listeners(project, monkeypatch, _no_other_kinds) -> list[Listener]:
    made = [Listener("one", project), Listener("two", project)]
    monkeypatch.setattr(outbox, "subscribers", lambda: [each.subscriber for each in made])
    _no_other_kinds |= {each.subscriber.kind.name: each.subscriber.kind for each in made}
    return made


def test_where_nobody_listens_nothing_is_written(
    listeners, other_project, project, django_assert_num_queries
):
    with django_assert_num_queries(0):
        assert outbox.publish("memory.added", project_id=other_project.id) is None
        assert outbox.publish("key.made", project_id=project.id) is None


def test_an_event_comes_with_its_change_or_not_at_all(listeners, project):
    with pytest.raises(RuntimeError), transaction.atomic():
        outbox.publish("memory.added", project_id=project.id)
        raise RuntimeError
    assert not Event.objects.exists()
    assert not Job.objects.exists()


def test_each_subscriber_hears_of_a_memory_in_order(listeners, project):
    memory, other = uuid.uuid4(), uuid.uuid4()
    for id_, kind in (
        (memory, "added"),
        (other, "added"),
        (memory, "updated"),
        (memory, "deleted"),
    ):
        outbox.publish(f"memory.{kind}", project_id=project.id, memory_id=id_)
    while Job.objects.filter(state=State.QUEUED).exists():
        run_next()
    for listener in listeners:
        of_memory = [kind for id_, kind in listener.heard if id_ == memory]
        assert of_memory == ["memory.added", "memory.updated", "memory.deleted"]
        assert len(listener.heard) == 4


def test_a_subscriber_that_is_down_holds_up_its_own_lanes_alone(listeners, project):
    one, two = listeners
    one.is_down = True
    memory = uuid.uuid4()
    for kind in ("added", "updated"):
        outbox.publish(f"memory.{kind}", project_id=project.id, memory_id=memory)
    for _ in range(3):
        run_next()
    assert claim() is None
    assert (len(one.heard), len(two.heard)) == (0, 2)
    waiting = Job.objects.filter(state=State.QUEUED)
    assert set(waiting.values_list("lane", flat=True)) == {f"one:{memory}"}
