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
    found = bulk.recent(request.principal, SHOWN)
    context = {"operations": [_told(row, request.principal) for row in found], "limit": SHOWN}
    return render(request, "memories/operations.html", context)


@require_safe
@page
def operation(request: PageRequest, operation_id: UUID) -> HttpResponse:
    """One bulk change: how far it is, what it came to, who did it; scope `review`."""
    found = bulk.get(request.principal, operation_id)
    partial = is_partial(request)
    name = "memories/_operation.html" if partial else "memories/operation.html"
    context = {
        "told": _told(found, request.principal),
        "op": found,
        "again": _again(found),
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
        found = bulk.undo(request.principal, operation_id)
    except ConflictError as error:
        messages.warning(request, error.message)
        return redirect(own_page)
    if found.is_active:
        return redirect(own_page)
    told = f"Undone: {count_words(found.undone)} {'is' if found.undone == 1 else 'are'} as before."
    if found.left:
        left = count_words(found.left)
        told += f" {left} had been changed since, and {was_or_were(found.left)} left."
    (messages.warning if found.left else messages.success)(request, told)
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


def _told(found: Operation, principal: Principal) -> dict[str, Any]:
    """An operation in the words of pages. Keys and requests are for administrators alone."""
    sees_callers = Scope.ADMIN in principal.scopes
    word, colour = STATES[State(found.state)]
    words = ACTIONS[found.action]
    return {
        "row": found,
        "words": words,
        "title": f"{words.name}: {count_words(found.count)}",
        "state": word,
        "colour": colour,
        "handled": found.undone + found.left if found.state == State.UNDOING else found.handled,
        "of": found.done if found.state == State.UNDOING else found.count,
        "came_to": done_words(found),
        "who": _who(found, sees_callers=sees_callers),
        "request_id": found.request_id if sees_callers else "",
        "can_undo": _can_undo(found),
    }


def _can_undo(found: Operation) -> bool:
    ended = found.state in {State.DONE, State.CANCELLED}
    return bool(ended and found.done and found.undo_until)


def _who(found: Operation, *, sees_callers: bool) -> str:
    if found.account and (found.account.name or sees_callers):
        return found.account.name or found.account.email
    if found.key_prefix:
        return f"key {found.key_prefix}…" if sees_callers else "an API key"
    return "an administrator"


def _again(found: Operation) -> list[tuple[str, str]] | None:
    """The fields that ask for a fresh look at the same match; None where there is nothing to look
    at again."""
    if found.state != State.STOPPED:
        return None
    fields = [("action", found.action), ("value", found.value)]
    match = BulkMatch(found.match)
    if (selection := match.selection) is not None:
        return [*fields, ("all", "1"), *selection.params()]
    return [*fields, *[("ids", str(id_)) for id_ in match.ids]] if match.ids else None
