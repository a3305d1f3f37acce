"""The kinds of jobs: what each one does, how pages describe it, when it is retried."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.utils.module_loading import import_string

from core.errors import Mem0dashError

if TYPE_CHECKING:
    from jobs.running import JobRun

# Seconds before the second attempt, the third and so on. Then the job has failed.
BACKOFF: Final = (5.0, 30.0, 300.0, 1800.0)


class OutageError(Mem0dashError):
    """Something that all jobs of the kind need is away. The kind waits; no attempt is used up."""

    status = 503
    code = "outage"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job.

    `handler` does one job. It may be run again after a kill, so it does its SQL in `run.step` or
    `run.finishing`, and must tolerate repeating the rest. It calls `run.beat` at least every
    `lease_seconds` / 2, else another process takes the job. `name` begins with the room,
    "operations.prune-request-log"; `title` is what people read; `about` makes the line below it
    from a payload. `schedule` is the timetable of a kind that runs by itself.
    """

    name: str
    title: str
    handler: "Callable[[JobRun], object]"
    about: Callable[[Mapping[str, Any]], str] = lambda payload: ""
    needs_index: bool = False
    # It uses all cores, so a process runs one of these at a time.
    is_heavy: bool = False
    backoff: tuple[float, ...] = BACKOFF
    lease_seconds: float = 30.0
    # A job whose process died this often in a row has failed: it probably kills them.
    most_losses: int = 5
    schedule: str = ""


@cache
def known_kinds() -> Mapping[str, Kind]:
    """All kinds, by name: those of settings.JOB_KINDS, and one for each subscriber to events."""
    all_kinds: list[Kind] = [import_string(path) for path in settings.JOB_KINDS]
    all_kinds += [import_string(path).kind for path in settings.EVENT_SUBSCRIBERS]
    return {kind.name: kind for kind in all_kinds}
