"""Does bulk changes and takes them back: at once, or batch by batch as a job.

A job first notes down the memories that match, in their revisions, and goes on only when these are
the ones that were shown. From then on it works off what it noted down: each batch changes memories,
history and notes in one transaction, so that after a kill it goes on where it was, with nothing
done twice. A memory that others changed before its turn is passed over and counted.
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
from memories.bulk import batch as bulk_changes
from memories.bulk.plan import BulkMatch, MatchDigest, ShownPlan, describe_drift, survey_of
from memories.editing import authors
from memories.editing.actions import ERASE, BoundAction, parse_action
from memories.models import Memory
from memories.models.bulk import ACTIVE, Operation, OperationItem
from memories.storage.connections import stream

logger = logging.getLogger(__name__)

BATCH: Final = 500
# Ids are noted down in larger portions: nothing waits for what they lock.
PREPARE_BATCH: Final = 2000
LEASE: Final = "operations"
# Others write between two batches.
PAUSE_SECONDS: Final = 0.01
_NEVER: Final = threading.Event()
State = Operation.State
Item = OperationItem.State
Show = Callable[[list[Memory]], object]


def create_operation(principal: Principal, shown: ShownPlan, state: Operation.State) -> Operation:
    """The operation's row, saved. IntegrityError when it was begun already."""
    operation = Operation(
        id=shown.id,
        project_id=principal.project.id,
        action=shown.act.action,
        value=shown.act.value,
        match=shown.match.kept,
        words=shown.match.words(),
        count=shown.count,
        digest=shown.digest,
        planned_at=shown.at,
        state=state,
        entity_limit=authors.plain_limit(principal),
        created_at=timezone.now(),
        **Operation.columns(principal.actor),
    )
    operation.save(force_insert=True)
    return operation


# --- At once -------------------------------------------------------------------------------------
def change_at_once(principal: Principal, shown: ShownPlan) -> tuple[Operation, list[Memory]]:
    """Does it in the caller's transaction; the operation, and the changed memories for the index.

    ConflictError when something else matches than was shown; IntegrityError when it was begun.
    """
    operation = create_operation(principal, shown, State.RUNNING)
    matching = shown.match.rows(principal, shown.act)
    locked = list(matching.select_for_update().order_by("id")[: shown.count + 1])
    check(principal, shown, survey_of((row.id, row.rev) for row in locked))
    OperationItem.objects.bulk_create(
        OperationItem(operation=operation, memory_id=row.id, rev=row.rev) for row in locked
    )
    items = list(operation.items.order_by("id"))
    changed = bulk_changes.carry_out(
        operation, shown.act, items, {row.id: row for row in locked}, principal
    )
    finish(operation, State.DONE)
    operation.refresh_from_db()
    return operation, changed


def check(principal: Principal, shown: ShownPlan, found: MatchDigest) -> None:
    """ConflictError, which tells the difference, unless `found` is what was shown."""
    if (found.count, found.digest) != (shown.count, shown.digest):
        raise ConflictError(describe_drift(principal, shown))


def begin_undo(operation: Operation, principal: Principal) -> None:
    """Writes down who takes it back; the caller has it locked."""
    operation.state, operation.undone_by = State.UNDOING, principal.actor.plain()
    operation.save(update_fields=["state", "undone_by"])


def undo_at_once(operation: Operation) -> list[Memory]:
    """Takes it back in the caller's transaction, which has the operation locked; the changed
    memories."""
    changed: list[Memory] = []
    while items := _next(operation, Item.DONE):
        changed += bulk_changes.take_back(operation, items)
    finish(operation, State.UNDONE)
    operation.refresh_from_db()
    return changed


# --- As a job ------------------------------------------------------------------------------------
def has_work() -> bool:
    """Whether there is a job to go on with."""
    return Operation.objects.filter(state__in=ACTIVE).exists()


def work(show: Show, stop: threading.Event = _NEVER) -> None:
    """Goes on with all jobs, a batch of each in turn, until none is left, or until `stop`.

    `show` gets the memories of each batch once they are committed, for the index. A job that fails
    does not keep the others; the error rises after a turn of all.
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
            except Exception as error:  # noqa: BLE001  (it rises below)
                failed = error
            stop.wait(PAUSE_SECONDS)
        if failed is not None:
            raise failed


def run_next_batch(operation_id: UUID) -> list[Memory]:
    """Does the next batch of a job, in one transaction; the changed memories, committed."""
    with transaction.atomic():
        operation = lock_operation(operation_id)
        if operation.state == State.RUNNING:
            return _run_batch(operation)
        if operation.state == State.UNDOING:
            return _undo_batch(operation)
        if operation.state != State.PREPARING or not _note_down(operation):
            return []
    _compare(operation)
    return []


def lock_operation(operation_id: UUID) -> Operation:
    """The operation, which nobody else changes until the caller's transaction ends."""
    rows = Operation.objects.select_for_update(of=("self",)).select_related("project")
    return rows.get(id=operation_id)


def _note_down(operation: Operation) -> bool:
    """Notes down the next memories that match; whether there are no more."""
    wanted, match, principal = _asked(operation)
    last = operation.items.filter(state=Item.PENDING).order_by("-id").first()
    try:
        rows = match.rows(principal, wanted).order_by("id")
    except Mem0dashError as error:
        finish(operation, State.STOPPED, error.message)
        return False
    page = rows.filter(id__gt=last.memory_id) if last else rows
    found = list(page.values_list("id", "rev")[:PREPARE_BATCH])
    OperationItem.objects.bulk_create(
        OperationItem(operation=operation, memory_id=id_, rev=rev) for id_, rev in found
    )
    return len(found) < PREPARE_BATCH


def _compare(operation: Operation) -> None:
    """Goes on when what was noted down is what was shown, else stops. Reads without a lock, for
    it may be a million; what came to it meanwhile shows in the count."""
    wanted, match, principal = _asked(operation)
    shown = ShownPlan(
        id=operation.id,
        act=wanted,
        match=match,
        count=operation.count,
        digest=operation.digest,
        at=operation.planned_at,
    )
    noted = operation.items.order_by()
    problem = ""
    try:
        pairs = stream(noted.values_list("memory_id", "rev"), 5000)
        check(principal, shown, survey_of(pairs))
    except ConflictError as error:
        problem = error.message
    with transaction.atomic():
        if lock_operation(operation.id).state != State.PREPARING:
            return
        if not problem and noted.count() == operation.count:
            Operation.objects.filter(pk=operation.pk).update(state=State.RUNNING)
            return
        finish(operation, State.STOPPED, problem or describe_drift(principal, shown))
    portions.delete(noted, PREPARE_BATCH)


def _asked(operation: Operation) -> tuple[BoundAction, BulkMatch, Principal]:
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
    wanted, _, principal = _asked(operation)
    return bulk_changes.carry_out(
        operation, wanted, items, bulk_changes.rows_of(operation, items), principal
    )


def _undo_batch(operation: Operation) -> list[Memory]:
    items = _next(operation, Item.DONE)
    if not items:
        finish(operation, State.UNDONE)
        return []
    return bulk_changes.take_back(operation, items)


def finish(operation: Operation, state: Operation.State, problem: str = "") -> None:
    """Ends it, or the taking back of it. What was changed can be undone for the retention time,
    which begins with the first memory: the first one deleted is the first to be purged."""
    now = timezone.now()
    values: dict[str, Any] = {"state": state, "problem": problem}
    if state != State.UNDONE:
        values["finished_at"] = now
        done = Operation.objects.filter(pk=operation.pk).values_list("done", flat=True).get()
        if done and operation.action != ERASE:
            days = operation.project.retention_days
            values["undo_until"] = operation.created_at + timedelta(days=days)
    Operation.objects.filter(pk=operation.pk).update(**values)
    if operation.action == ERASE:
        _record_erased(operation)
    told = {"operation": str(operation.pk), "action": operation.action, "state": state.value}
    logger.info("a bulk change has ended", extra=told)


def _record_erased(operation: Operation) -> None:
    """Of what can be undone the operation itself tells; what is gone for good is told at once."""
    operation.refresh_from_db(fields=["done"])
    if operation.done:
        audit.record(
            AuditAction.MEMORIES_ERASED,
            actor=operation.actor,
            project_id=operation.project_id,
            target=AuditTarget("operation", operation.pk, operation.project.slug),
            details={"memories": operation.done},
        )
