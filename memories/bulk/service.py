"""Bulk changes: a plan shows what would change, and a run does exactly that or nothing.

A plan reads all matching memories and keeps a digest over their ids and revisions. A run changes
exactly these revisions: a few memories at once, many as a background job that can be watched and
cancelled. Every action except erasing can be undone.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from core.errors import ConflictError, InvalidInputError, NotFoundError
from core.principal import Principal, Scope
from memories import runtime
from memories.browse.selection import Selection
from memories.bulk import job
from memories.bulk.plan import (
    MAX_IDS,
    BulkMatch,
    BulkPlan,
    SampleChange,
    ShownPlan,
    make_plan,
    read_token,
    survey,
)
from memories.editing.actions import ACTIONS, ERASE, parse_action
from memories.models import Memory
from memories.models.bulk import Operation

__all__ = [
    "ACTIONS",
    "AT_ONCE",
    "MAX_IDS",
    "BulkMatch",
    "BulkPlan",
    "Operation",
    "SampleChange",
    "ShownPlan",
    "cancel",
    "count_by_state",
    "entity_plan",
    "get",
    "make_plan",
    "plan",
    "read_token",
    "recent",
    "run",
    "undo",
]

# The most memories that are changed in the request itself, all or none.
AT_ONCE: Final = 1000


def plan(
    principal: Principal,
    action: str,
    *,
    selection: Selection | None = None,
    ids: Sequence[UUID] | None = None,
    value: str = "",
) -> BulkPlan:
    """What the action would do to all memories of the selection, or to these ids; changes nothing.
    Either `selection` or `ids` (at most MAX_IDS).

    InvalidInputError; NotFoundError if any of the ids is missing or in another project. Scope
    `review`, or `admin` for erasing.
    """
    bound = parse_action(action, value)
    if (selection is None) == (ids is None):
        raise InvalidInputError("Name a selection or ids, one of the two.")
    match = (
        BulkMatch.of_ids(ids)
        if ids is not None
        else BulkMatch.of_selection(selection or Selection())
    )
    return make_plan(principal, bound, match)


def entity_plan(principal: Principal, type: str, id: str) -> BulkPlan:  # noqa: A002  (the wire's names)
    """What deleting a user, agent, app or run with all its memories would do. Scope `admin`.

    NotFoundError when it has none, InvalidInputError for an unknown type.
    """
    result = make_plan(principal, parse_action("delete"), BulkMatch.of_entity(type, id))
    if not result.count:
        raise NotFoundError(f"There is no {type} {id}.")
    return result


def run(principal: Principal, token: str) -> Operation:
    """Runs the plan of this token, exactly as shown. A token that is sent again returns the first
    run's operation.

    Up to AT_ONCE memories are changed on return, all or none; more become a job, whose `state`
    shows its progress. ConflictError, which says what differs, if other memories match by now or
    one of them has changed; nothing is changed then. NotFoundError, InvalidInputError and
    PermissionDeniedError as `plan`.
    """
    plan = read_token(principal, token)
    plan.match.require(principal, plan.act)
    existing = Operation.objects.filter(id=plan.id).first()
    if existing is not None:
        return existing
    plan.match.check_ids(principal, plan.act)
    if plan.count > AT_ONCE:
        rows = plan.match.rows(principal, plan.act)
        job.check(principal, plan, survey(rows, plan.act))
    try:
        with transaction.atomic():
            if plan.count > AT_ONCE:
                return job.create_operation(principal, plan, Operation.State.PREPARING)
            operation, changed = job.change_at_once(principal, plan)
    except IntegrityError:  # the same token, at the same time
        return Operation.objects.get(id=plan.id)
    runtime.get_runtime().apply(changed)
    return operation


def cancel(principal: Principal, operation_id: UUID | str) -> Operation:
    """Cancels a job; its changes so far stay and can be undone. ConflictError if the job has ended
    or is being undone; NotFoundError; scope `review`."""
    with transaction.atomic():
        operation = job.lock_operation(get(principal, operation_id).id)
        if operation.state not in {Operation.State.PREPARING, Operation.State.RUNNING}:
            raise ConflictError("It is over already: there is nothing left to cancel.")
        job.finish(operation, Operation.State.CANCELLED)
        audit.record(
            AuditAction.BULK_CHANGE_CANCELLED,
            actor=principal.actor,
            project_id=operation.project_id,
            target=AuditTarget("bulk_change", operation.id),
            details={"memories": operation.count, "action": operation.action},
        )
    return get(principal, operation_id)


def undo(principal: Principal, operation_id: UUID | str) -> Operation:
    """Undoes a bulk change of review status, confidence or expiry, or a deletion or restore.

    Memories that were changed since stay as they are; `undone` and `left` count both. Large ones
    become a job, as in `run`; a second call changes nothing. ConflictError while the change runs,
    if there is nothing to undo, or if the time for an undo is over; NotFoundError; scope `review`.
    """
    changed: list[Memory] = []
    with transaction.atomic():
        operation = job.lock_operation(get(principal, operation_id).id)
        if operation.state in {Operation.State.UNDOING, Operation.State.UNDONE}:
            return operation
        _check_undo(operation)
        job.begin_undo(operation, principal)
        if operation.done <= AT_ONCE:
            changed = job.undo_at_once(operation)
    if changed:
        runtime.get_runtime().apply(changed)
    return get(principal, operation_id)


def _check_undo(operation: Operation) -> None:
    if operation.is_active:
        raise ConflictError("It is still running: cancel it, or wait for its end.")
    if operation.action == ERASE:
        raise ConflictError("What is erased cannot be brought back.")
    if not operation.done:
        raise ConflictError("It has changed nothing: there is nothing to undo.")
    if operation.undo_until is None or operation.undo_until <= timezone.now():
        raise ConflictError("It can no longer be undone: the retention time is over.")


def get(principal: Principal, operation_id: UUID | str) -> Operation:
    """A bulk change of the caller's project. NotFoundError; scope `review`."""
    id_ = _as_id(operation_id)
    operation = _visible(principal).filter(id=id_).first() if id_ else None
    if operation is None:
        raise NotFoundError("There is no such operation.")
    return operation


def recent(
    principal: Principal, limit: int = 20, *, states: Sequence[Operation.State] = ()
) -> list[Operation]:
    """The newest bulk changes of the project, in any state or in these. Scope `review`."""
    rows = _visible(principal).order_by("-created_at", "-id")
    return list((rows.filter(state__in=states) if states else rows)[:limit])


def count_by_state(principal: Principal) -> dict[str, int]:
    """How many bulk changes the project has in each state. Scope `review`."""
    return dict(_visible(principal).order_by().values_list("state").annotate(Count("id")))


def _visible(principal: Principal) -> QuerySet[Operation]:
    """The caller's operations; with an entity limit only their own, because others' reach
    further."""
    principal.require(Scope.REVIEW)
    rows = Operation.objects.filter(project_id=principal.project.id).select_related("account")
    if principal.entity_limit is not None:
        own = Q(account=principal.account_id, key_id=principal.key_id)
        rows = rows.filter(own)
    return rows


def _as_id(operation_id: UUID | str) -> UUID | None:
    try:
        return operation_id if isinstance(operation_id, UUID) else UUID(operation_id)
    except ValueError:
        return None
