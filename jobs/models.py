"""The tables of background work: jobs, their lanes and schedules, events, leases."""

from typing import Final

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Job(models.Model):
    """One piece of work. It is written in the transaction of what asks for it.

    `attempts` counts the claims and is the fencing token: the holder of an earlier attempt can no
    longer change anything. The database's clock decides all times.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    # Null: a job of the whole instance.
    project = models.ForeignKey(
        "accounts.Project", models.CASCADE, null=True, db_index=False, related_name="+"
    )
    kind = models.CharField(max_length=60)
    payload = models.JSONField(default=dict)
    # Who asked for it, and how: {via, key_id, key_prefix, client, request_id}.
    account = models.ForeignKey(
        "accounts.Account", models.SET_NULL, null=True, db_index=False, related_name="+"
    )
    actor = models.JSONField(default=dict)
    schedule = models.ForeignKey(
        "jobs.Schedule", models.SET_NULL, null=True, db_index=False, related_name="jobs"
    )
    event = models.ForeignKey(
        "jobs.Event", models.CASCADE, null=True, db_index=False, related_name="jobs"
    )
    # At most one job with this key is open; "" for no limit.
    dedup_key = models.CharField(max_length=200, blank=True)
    # Jobs of one lane run one after the other, in the order of their ids; "" for no lane.
    lane = models.CharField(max_length=200, blank=True)
    # An earlier job of the lane is open.
    blocked = models.BooleanField(default=False)
    # A lower number runs first.
    priority = models.SmallIntegerField(default=0)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    attempts = models.PositiveIntegerField(default=0)
    # Failed attempts, and processes that died at it since it last made progress.
    failures = models.PositiveSmallIntegerField(default=0)
    losses = models.PositiveSmallIntegerField(default=0)
    run_at = models.DateTimeField(db_default=Now())
    leased_until = models.DateTimeField(null=True)
    holder = models.CharField(max_length=120, blank=True)
    cancel_wanted = models.BooleanField(default=False)
    # Why it failed or waits, in words and as a code; its result, in words.
    reason = models.TextField(blank=True)
    code = models.CharField(max_length=60, blank=True)
    result = models.TextField(blank=True)
    done = models.PositiveBigIntegerField(default=0)
    total = models.PositiveBigIntegerField(null=True)
    # Its progress, for the next attempt to continue from.
    kept = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["dedup_key"],
                condition=Q(state__in=("queued", "running")) & ~Q(dedup_key=""),
                name="one_open_job_per_key",
            ),
        )
        indexes = (
            models.Index(
                fields=["run_at"], condition=Q(state="queued", blocked=False), name="job_due"
            ),
            models.Index(
                fields=["project", "priority", "run_at", "id"],
                condition=Q(state="queued", blocked=False),
                name="job_turn",
            ),
            models.Index(
                # `state` is repeated because SQLite would otherwise choose a larger index.
                fields=["state", "leased_until"],
                condition=Q(state="running"),
                name="job_running",
            ),
            models.Index(
                fields=["lane", "id"],
                condition=Q(state__in=("queued", "running")) & ~Q(lane=""),
                name="job_lane",
            ),
            models.Index(fields=["project", "state", "finished_at", "id"], name="job_listed"),
            models.Index(
                fields=["schedule", "id"], condition=Q(schedule__isnull=False), name="job_schedule"
            ),
            models.Index(fields=["event"], condition=Q(event__isnull=False), name="job_event"),
        )

    def __str__(self) -> str:
        return f"{self.kind} #{self.pk} ({self.state})"

    @property
    def is_open(self) -> bool:
        """Whether it is running or will run."""
        return self.state in OPEN


OPEN: Final = (Job.State.QUEUED, Job.State.RUNNING)


class Lane(models.Model):
    """The row to lock while a job enters or leaves a lane, so that exactly one is at its head."""

    key = models.CharField(max_length=200, primary_key=True)

    def __str__(self) -> str:
        return self.key


class Parked(models.Model):
    """A kind of job that waits, because something that all of its jobs need is away."""

    kind = models.CharField(max_length=60, primary_key=True)
    until = models.DateTimeField()
    # The number of outages in a row: each one makes the wait longer.
    times = models.PositiveSmallIntegerField(default=1)
    reason = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"{self.kind} until {self.until:%H:%M:%S}"


class Schedule(models.Model):
    """When the server makes jobs of a kind by itself; `jobs.timetable.Timetable` reads `expr`."""

    kind = models.CharField(max_length=60, unique=True)
    expr = models.CharField(max_length=60)
    tz = models.CharField(max_length=60, default="UTC")
    next_run_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.kind} {self.expr}"


class Event(models.Model):
    """Something that happened, for subscribers. It is written in the same transaction."""

    project = models.ForeignKey(
        "accounts.Project", models.CASCADE, db_index=False, related_name="+"
    )
    kind = models.CharField(max_length=60)
    memory_id = models.UUIDField(null=True)
    revision_id = models.BigIntegerField(null=True)
    # Who did it: {account_id, via, key_id, key_prefix, client, request_id}.
    actor = models.JSONField(default=dict)
    payload = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = (
            models.Index(fields=["project", "id"], name="event_order"),
            models.Index(fields=["created_at"], name="event_age"),
        )

    def __str__(self) -> str:
        return f"{self.kind} #{self.pk}"


class Lease(models.Model):
    """Work that one process at a time does; who holds it renews it, and who is gone loses it."""

    name = models.CharField(max_length=40, primary_key=True)
    holder = models.CharField(max_length=64)
    until = models.DateTimeField()

    class Meta:
        # Its name from before it moved here.
        db_table = "memories_lease"

    def __str__(self) -> str:
        return f"{self.name} {self.holder}"
