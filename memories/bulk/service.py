"""Bulk changes: what they would do is shown first, and exactly that is done, or nothing.

A plan looks at everything that matches and remembers it as a digest over ids and revisions. Run,
it changes these memories in these revisions: at once where they are few, and otherwise as a job of
the background work, which can be watched, cancelled and, as all but erasing, undone.
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
from memories.bulk import job as bulk_work
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
    """What the action would do to all that the selection matches, or to these memories; nothing is
    changed. Either `selection` or `ids` (at most MAX_IDS).

    InvalidInputError; NotFoundError when some of the ids are missing or foreign; scope `review`,
    for erasing `admin`.
    """
    wanted = parse_action(action, value)
    if (selection is None) == (ids is None):
        raise InvalidInputError("Name a selection or ids, one of the two.")
    match = (
        BulkMatch.of_ids(ids)
        if ids is not None
        else BulkMatch.of_selection(selection or Selection())
    )
    return make_plan(principal, wanted, match)


def entity_plan(principal: Principal, type: str, id: str) -> BulkPlan:  # noqa: A002  (as wire names it)
    """What deleting a user, agent, app or run with all its memories would do. Scope `admin`.

    NotFoundError when it has none, InvalidInputError for an unknown type.
    """
    found = make_plan(principal, parse_action("delete"), BulkMatch.of_entity(type, id))
    if not found.count:
        raise NotFoundError(f"There is no {type} {id}.")
    return found


def run(principal: Principal, token: str) -> Operation:
    """Does what the plan with this token showed, all of it and nothing else; once, however often
    the token comes.

    Up to AT_ONCE memories are changed when it returns, all or none; more are a job, whose
    `state` tells how far it is. ConflictError, and nothing has changed, when something else matches
    by now or one of them was changed: it says what. NotFoundError, InvalidInputError and
    PermissionDeniedError as `plan`.
    """
    shown = read_token(principal, token)
    shown.match.require(principal, shown.act)
    before = Operation.objects.filter(id=shown.id).first()
    if before is not None:
        return before
    shown.match.check_ids(principal, shown.act)
    if shown.count > AT_ONCE:
        rows = shown.match.rows(principal, shown.act)
        bulk_work.check(principal, shown, survey(rows, shown.act))
    try:
        with transaction.atomic():
            if shown.count > AT_ONCE:
                return bulk_work.create_operation(principal, shown, Operation.State.PREPARING)
            operation, changed = bulk_work.change_at_once(principal, shown)
    except IntegrityError:  # the same token, at the same time
        return Operation.objects.get(id=shown.id)
    runtime.get_runtime().apply(changed)
    return operation


def cancel(principal: Principal, operation_id: UUID | str) -> Operation:
    """Ends a job; what it has changed stays, and can be undone. ConflictError when it is over or is
    being undone; scope `review`; NotFoundError."""
    with transaction.atomic():
        operation = bulk_work.lock_operation(get(principal, operation_id).id)
        if operation.state not in {Operation.State.PREPARING, Operation.State.RUNNING}:
            raise ConflictError("It is over already: there is nothing left to cancel.")
        bulk_work.finish(operation, Operation.State.CANCELLED)
        audit.record(
            AuditAction.BULK_CHANGE_CANCELLED,
            actor=principal.actor,
            project_id=operation.project_id,
            target=AuditTarget("bulk_change", operation.id),
            details={"memories": operation.count, "action": operation.action},
        )
    return get(principal, operation_id)


def undo(principal: Principal, operation_id: UUID | str) -> Operation:
    """Takes a bulk change back: review, confidence, expiry, or the deletion.

    Memories that were changed since are left as they are; `undone` and `left` tell how many. Large
    ones are a job, as in `run`; a second call changes nothing. ConflictError while it runs, when
    there is nothing to undo, or not any more; scope `review`; NotFoundError.
    """
    changed: list[Memory] = []
    with transaction.atomic():
        operation = bulk_work.lock_operation(get(principal, operation_id).id)
        if operation.state in {Operation.State.UNDOING, Operation.State.UNDONE}:
            return operation
        _check_undo(operation)
        bulk_work.begin_undo(operation, principal)
        if operation.done <= AT_ONCE:
            changed = bulk_work.undo_at_once(operation)
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
    """A bulk change of the caller's project; NotFoundError when missing or foreign. Scope
    `review`."""
    wanted = _as_id(operation_id)
    operation = _visible(principal).filter(id=wanted).first() if wanted else None
    if operation is None:
        raise NotFoundError("There is no such operation.")
    return operation


def recent(
    principal: Principal, limit: int = 20, *, states: Sequence[Operation.State] = ()
) -> list[Operation]:
    """The newest bulk changes of the project, of all states or of these. Scope `review`."""
    rows = _visible(principal).order_by("-created_at", "-id")
    return list((rows.filter(state__in=states) if states else rows)[:limit])


def count_by_state(principal: Principal) -> dict[str, int]:
    """How many bulk changes the project has in each state. Scope `review`."""
    return dict(_visible(principal).order_by().values_list("state").annotate(Count("id")))


def _visible(principal: Principal) -> QuerySet[Operation]:
    """With a limit to some entities, only one's own: others' reach further."""
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
