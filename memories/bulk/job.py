"""Runs and undoes bulk changes: at once, or batch by batch as a job.

A job first stores an item (id and revision) for each matching memory, and continues only if these
are the memories of the preview. It then works through the items: each batch changes memories,
history and items in one transaction, so that after a kill the job resumes where it stopped and does
nothing twice. A memory that others changed before its turn is skipped and counted.
"""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from core.database import portions
from core.errors import ConflictError, Mem0dashError
from core.principal import Principal
from memories.bulk import batch
from memories.bulk.plan import BulkMatch, MatchDigest, ShownPlan, describe_drift, survey_of
from memories.editing import authors
from memories.editing.actions import ERASE, BoundAction, parse_action
from memories.models import Memory
from memories.models.bulk import ACTIVE, Operation, OperationItem
from memories.storage.connections import stream

logger = logging.getLogger(__name__)

BATCH: Final = 500
# Storing items locks nothing that others wait for, so these batches can be larger.
PREPARE_BATCH: Final = 2000
LEASE: Final = "operations"
# Lets others write between two batches.
PAUSE_SECONDS: Final = 0.01
_NEVER: Final = threading.Event()
State = Operation.State
Item = OperationItem.State
Show = Callable[[list[Memory]], object]


def create_operation(principal: Principal, plan: ShownPlan, state: Operation.State) -> Operation:
    """Saves the operation's row. IntegrityError if the operation exists already."""
    operation = Operation(
        id=plan.id,
        project_id=principal.project.id,
        action=plan.act.action,
        value=plan.act.value,
        match=plan.match.kept,
        words=plan.match.words(),
        count=plan.count,
        digest=plan.digest,
        planned_at=plan.at,
        state=state,
        entity_limit=authors.plain_limit(principal),
        created_at=timezone.now(),
        **Operation.columns(principal.actor),
    )
    operation.save(force_insert=True)
    return operation


# --- At once -------------------------------------------------------------------------------------
def change_at_once(principal: Principal, plan: ShownPlan) -> tuple[Operation, list[Memory]]:
    """Runs the plan in the caller's transaction; returns the operation and the changed memories.

    ConflictError if other memories match than were previewed; IntegrityError if the operation
    exists.
    """
    operation = create_operation(principal, plan, State.RUNNING)
    matching = plan.match.rows(principal, plan.act)
    locked = list(matching.select_for_update().order_by("id")[: plan.count + 1])
    check(principal, plan, survey_of((row.id, row.rev) for row in locked))
    OperationItem.objects.bulk_create(
        OperationItem(operation=operation, memory_id=row.id, rev=row.rev) for row in locked
    )
    items = list(operation.items.order_by("id"))
    changed = batch.carry_out(
        operation, plan.act, items, {row.id: row for row in locked}, principal
    )
    finish(operation, State.DONE)
    operation.refresh_from_db()
    return operation, changed


def check(principal: Principal, plan: ShownPlan, current: MatchDigest) -> None:
    """ConflictError, with the differences, unless `current` equals the preview."""
    if (current.count, current.digest) != (plan.count, plan.digest):
        raise ConflictError(describe_drift(principal, plan))


def begin_undo(operation: Operation, principal: Principal) -> None:
    """Records who undoes the operation, which the caller has locked."""
    operation.state, operation.undone_by = State.UNDOING, principal.actor.plain()
    operation.save(update_fields=["state", "undone_by"])


def undo_at_once(operation: Operation) -> list[Memory]:
    """Undoes the operation, which the caller's transaction has locked; returns the changed
    memories."""
    changed: list[Memory] = []
    while items := _next(operation, Item.DONE):
        changed += batch.take_back(operation, items)
    finish(operation, State.UNDONE)
    operation.refresh_from_db()
    return changed


# --- As a job ------------------------------------------------------------------------------------
def has_work() -> bool:
    """Whether any bulk job is unfinished."""
    return Operation.objects.filter(state__in=ACTIVE).exists()


def work(show: Show, stop: threading.Event = _NEVER) -> None:
    """Runs all jobs, one batch of each in turn, until none is left or `stop` is set.

    `show` gets the memories of each batch after the commit, for the index. A job that fails does
    not block the others; its error is raised after each job has had its turn.
    """
    while not stop.is_set():
        active = Operation.objects.filter(state__in=ACTIVE).order_by("created_at", "id")
        ids = list(active.values_list("id", flat=True))
        if not ids:
            return
        failed: Exception | None = None
        for id_ in ids:
            if stop.is_set():
                return
            try:
                show(run_next_batch(id_))
            except Exception as error:  # noqa: BLE001  (raised below)
                failed = error
            stop.wait(PAUSE_SECONDS)
        if failed is not None:
            raise failed


def run_next_batch(operation_id: UUID) -> list[Memory]:
    """Runs the next batch of a job in one transaction; returns the changed memories."""
    with transaction.atomic():
        operation = lock_operation(operation_id)
        if operation.state == State.RUNNING:
            return _run_batch(operation)
        if operation.state == State.UNDOING:
            return _undo_batch(operation)
        if operation.state != State.PREPARING or not _store_items(operation):
            return []
    _compare(operation)
    return []


def lock_operation(operation_id: UUID) -> Operation:
    """The operation, which nobody else changes until the caller's transaction ends."""
    rows = Operation.objects.select_for_update(of=("self",)).select_related("project")
    return rows.get(id=operation_id)


def _store_items(operation: Operation) -> bool:
    """Stores items for the next matching memories; True when there are no more."""
    action, match, principal = _stored_plan(operation)
    last = operation.items.filter(state=Item.PENDING).order_by("-id").first()
    try:
        rows = match.rows(principal, action).order_by("id")
    except Mem0dashError as error:
        finish(operation, State.STOPPED, error.message)
        return False
    page = rows.filter(id__gt=last.memory_id) if last else rows
    revisions = list(page.values_list("id", "rev")[:PREPARE_BATCH])
    OperationItem.objects.bulk_create(
        OperationItem(operation=operation, memory_id=id_, rev=rev) for id_, rev in revisions
    )
    return len(revisions) < PREPARE_BATCH


def _compare(operation: Operation) -> None:
    """Continues if the items equal the preview, otherwise stops. Reads up to millions of items
    without a lock; items that were added meanwhile show in the count."""
    action, match, principal = _stored_plan(operation)
    plan = ShownPlan(
        id=operation.id,
        act=action,
        match=match,
        count=operation.count,
        digest=operation.digest,
        at=operation.planned_at,
    )
    items = operation.items.order_by()
    problem = ""
    try:
        pairs = stream(items.values_list("memory_id", "rev"), 5000)
        check(principal, plan, survey_of(pairs))
    except ConflictError as error:
        problem = error.message
    with transaction.atomic():
        if lock_operation(operation.id).state != State.PREPARING:
            return
        if not problem and items.count() == operation.count:
            Operation.objects.filter(pk=operation.pk).update(state=State.RUNNING)
            return
        finish(operation, State.STOPPED, problem or describe_drift(principal, plan))
    portions.delete(items, PREPARE_BATCH)


def _stored_plan(operation: Operation) -> tuple[BoundAction, BulkMatch, Principal]:
    return (
        parse_action(operation.action, operation.value),
        BulkMatch(operation.match),
        authors.principal_of_change(operation),
    )


def _next(operation: Operation, state: OperationItem.State) -> list[OperationItem]:
    return list(operation.items.filter(state=state).order_by("id")[:BATCH])


def _run_batch(operation: Operation) -> list[Memory]:
    items = _next(operation, Item.PENDING)
    if not items:
        finish(operation, State.DONE)
        return []
    action, _, principal = _stored_plan(operation)
    return batch.carry_out(operation, action, items, batch.rows_of(operation, items), principal)


def _undo_batch(operation: Operation) -> list[Memory]:
    items = _next(operation, Item.DONE)
    if not items:
        finish(operation, State.UNDONE)
        return []
    return batch.take_back(operation, items)


def finish(operation: Operation, state: Operation.State, problem: str = "") -> None:
    """Ends the operation or its undo. The operation can be undone for the retention time, counted
    from its start, because the first memory deleted is the first to be purged."""
    now = timezone.now()
    values: dict[str, Any] = {"state": state, "problem": problem}
    if state != State.UNDONE:
        values["finished_at"] = now
        changed_count = (
            Operation.objects.filter(pk=operation.pk).values_list("done", flat=True).get()
        )
        if changed_count and operation.action != ERASE:
            days = operation.project.retention_days
            values["undo_until"] = operation.created_at + timedelta(days=days)
    Operation.objects.filter(pk=operation.pk).update(**values)
    if operation.action == ERASE:
        _record_erased(operation)
    extra = {"operation": str(operation.pk), "action": operation.action, "state": state.value}
    logger.info("a bulk change has ended", extra=extra)


def _record_erased(operation: Operation) -> None:
    """Writes the audit entry for erased memories. For other actions the operation itself is the
    record."""
    operation.refresh_from_db(fields=["done"])
    if operation.done:
        audit.record(
            AuditAction.MEMORIES_ERASED,
            actor=operation.actor,
            project_id=operation.project_id,
            target=AuditTarget("operation", operation.pk, operation.project.slug),
            details={"memories": operation.done},
        )
