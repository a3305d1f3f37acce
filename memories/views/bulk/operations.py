"""What bulk changes came to: progress, cancelling, undoing, and the list of the last ones."""

from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from accounts.web import PageRequest, local_path, page
from core import names
from core.errors import ConflictError
from core.pages.partial import is_partial
from core.principal import Principal, Scope
from memories.bulk import service as bulk
from memories.bulk.service import BulkMatch
from memories.models.bulk import Operation
from memories.views.bulk.plan import done_words
from memories.views.bulk.words import ACTIONS, count_words, was_or_were

SHOWN: Final = 50
State = Operation.State
# The word of a state, and its colour.
STATES: Final = {
    State.PREPARING: ("Starting", "info"),
    State.RUNNING: ("Running", "info"),
    State.DONE: ("Done", "ok"),
    State.STOPPED: ("Stopped", "warn"),
    State.CANCELLED: ("Cancelled", "warn"),
    State.UNDOING: ("Being undone", "info"),
    State.UNDONE: ("Undone", ""),
}


@require_safe
@page
def operations(request: PageRequest) -> HttpResponse:
    """The last bulk changes of the project; scope `review`."""
    names.check_page(request.GET, ())
    rows = bulk.recent(request.principal, SHOWN)
    context = {"operations": [_told(row, request.principal) for row in rows], "limit": SHOWN}
    return render(request, "memories/operations.html", context)


@require_safe
@page
def operation(request: PageRequest, operation_id: UUID) -> HttpResponse:
    """One bulk change: how far it is, what it came to, who did it; scope `review`."""
    row = bulk.get(request.principal, operation_id)
    partial = is_partial(request)
    name = "memories/_operation.html" if partial else "memories/operation.html"
    context = {
        "told": _told(row, request.principal),
        "op": row,
        "again": _again(row),
        "partial": partial,
    }
    return render(request, name, context)


@require_POST
@page
def operation_undo(request: PageRequest, operation_id: UUID) -> HttpResponse:
    """Takes a bulk change back; what others have changed since is left as it is."""
    back = request.POST.get("next", "")
    own_page = reverse("memories:operation", args=[operation_id])
    try:
        row = bulk.undo(request.principal, operation_id)
    except ConflictError as error:
        messages.warning(request, error.message)
        return redirect(own_page)
    if row.is_active:
        return redirect(own_page)
    message = f"Undone: {count_words(row.undone)} {'is' if row.undone == 1 else 'are'} as before."
    if row.left:
        unchanged = count_words(row.left)
        message += f" {unchanged} had been changed since, and {was_or_were(row.left)} left."
    (messages.warning if row.left else messages.success)(request, message)
    return redirect(local_path(back) if back else own_page)


@require_POST
@page
def operation_cancel(request: PageRequest, operation_id: UUID) -> HttpResponse:
    """Ends a bulk change that is running; what it has done stays, and can be undone."""
    try:
        bulk.cancel(request.principal, operation_id)
    except ConflictError as error:
        messages.warning(request, error.message)
    return redirect("memories:operation", operation_id)


def _told(row: Operation, principal: Principal) -> dict[str, Any]:
    """An operation in the words of pages. Keys and requests are for administrators alone."""
    sees_callers = Scope.ADMIN in principal.scopes
    word, colour = STATES[State(row.state)]
    words = ACTIONS[row.action]
    return {
        "row": row,
        "words": words,
        "title": f"{words.name}: {count_words(row.count)}",
        "state": word,
        "colour": colour,
        "handled": row.undone + row.left if row.state == State.UNDOING else row.handled,
        "of": row.done if row.state == State.UNDOING else row.count,
        "came_to": done_words(row),
        "who": _who(row, sees_callers=sees_callers),
        "request_id": row.request_id if sees_callers else "",
        "can_undo": _can_undo(row),
    }


def _can_undo(row: Operation) -> bool:
    ended = row.state in {State.DONE, State.CANCELLED}
    return bool(ended and row.done and row.undo_until)


def _who(row: Operation, *, sees_callers: bool) -> str:
    if row.account and (row.account.name or sees_callers):
        return row.account.name or row.account.email
    if row.key_prefix:
        return f"key {row.key_prefix}…" if sees_callers else "an API key"
    return "an administrator"


def _again(row: Operation) -> list[tuple[str, str]] | None:
    """The fields that ask for a fresh look at the same match; None where there is nothing to look
    at again."""
    if row.state != State.STOPPED:
        return None
    fields = [("action", row.action), ("value", row.value)]
    match = BulkMatch(row.match)
    if (selection := match.selection) is not None:
        return [*fields, ("all", "1"), *selection.params()]
    return [*fields, *[("ids", str(id_)) for id_ in match.ids]] if match.ids else None
