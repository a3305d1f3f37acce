"""Delivers events to subscribers: at least once, and in order for each memory.

An event is written in the transaction of the change, and only if a subscriber wants it. Each
subscriber has its own job for it, in a lane for each memory: a subscriber that is down delays its
own lanes only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils.module_loading import import_string

from jobs import queue
from jobs.kinds import BACKOFF, Kind
from jobs.models import Event

if TYPE_CHECKING:
    from jobs.running import JobRun


@dataclass(frozen=True)
class Subscriber:
    """A subscriber to events, as settings.EVENT_SUBSCRIBERS names it.

    `wants` says of a project and a kind of event whether somebody listens there. It is asked for
    every change, so it answers from memory. `deliver` may be called again for the same event.
    """

    name: str
    title: str
    wants: Callable[[UUID, str], bool]
    deliver: "Callable[[JobRun, Event], object]"
    backoff: tuple[float, ...] = BACKOFF

    @cached_property
    def kind(self) -> Kind:
        """The kind of job that delivers an event."""
        return Kind(
            name=f"event:{self.name}",
            title=self.title,
            handler=self._deliver,
            about=lambda payload: str(payload.get("kind", "")),
            backoff=self.backoff,
        )

    def _deliver(self, run: "JobRun") -> object:
        return self.deliver(run, Event.objects.get(jobs=run.job.pk))


def subscribers() -> list[Subscriber]:
    """All subscribers."""
    return [import_string(path) for path in settings.EVENT_SUBSCRIBERS]


def publish(
    kind: str,
    *,
    project_id: UUID,
    memory_id: UUID | None = None,
    revision_id: int | None = None,
    actor: Mapping[str, Any] | None = None,
    payload: Mapping[str, Any] | None = None,
) -> Event | None:
    """Writes an event for the subscribers, in the caller's transaction; None, without a statement,
    if nobody subscribes. Publish events of several memories in the order of their ids."""
    listening = [each for each in subscribers() if each.wants(project_id, kind)]
    if not listening:
        return None
    with transaction.atomic():
        event = Event.objects.create(
            project_id=project_id,
            kind=kind,
            memory_id=memory_id,
            revision_id=revision_id,
            actor=dict(actor or {}),
            payload=dict(payload or {}),
        )
        for each in listening:
            queue.enqueue(
                each.kind.name,
                project_id=project_id,
                payload={"kind": kind},
                lane=f"{each.name}:{memory_id}" if memory_id else "",
                event=event,
            )
    return event
