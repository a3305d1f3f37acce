"""Bulk changes: what they need, what they would do, and doing exactly that."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.web import PageRequest, local_path, page
from core import names
from core.errors import ConflictError, InvalidInputError, Mem0dashError, NotFoundError
from core.principal import Scope
from memories.browse.selection import Selection
from memories.bulk import service as bulk
from memories.models import Confidence
from memories.models.bulk import Operation
from memories.views.browser.place import BrowserAddress
from memories.views.bulk.words import ACTIONS, ActionWords, count_words, was_or_were
from memories.visibility import as_uuid

# Up to here a click confirms, beyond it the number has to be typed.
CLICKED: Final = 100
ERASE_WORD: Final = "erase"
# What the forms of these pages are made of, and no part of what is carried from one to the next.
OWN: Final = frozenset({"csrfmiddlewaretoken", "action", "value"})
CARRIED: Final = frozenset({"all", "ids", "next"})
DAYS: Final = (("In 7 days", 7), ("In 30 days", 30), ("In 90 days", 90), ("In a year", 365))


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """What the list, or the page of the value, sent: an action on what is ticked or on all."""

    action: str
    words: ActionWords
    value: str
    selection: Selection | None
    ids: list[UUID] | None
    back: str
    carried: list[tuple[str, str]]

    @classmethod
    def of(cls, data: QueryDict) -> "BulkRequest":
        """InvalidInputError for no known action, or a filter that is none; NotFoundError for an id
        that is none."""
        action = data.get("action", "")
        if action not in ACTIONS:
            raise InvalidInputError(f"There is no such action: {action[:40] or 'none was named'}.")
        place = BrowserAddress.of(dict(data.lists()), beside=OWN | CARRIED)
        # Where the list was, its page included; the memory that stood open there may be gone.
        back = BrowserAddress.at(data.get("next", "")) or place
        ids = None if data.get("all") == "1" else [as_uuid(id_) for id_ in data.getlist("ids")]
        return cls(
            action=action,
            words=ACTIONS[action],
            value=_last(data.getlist("value")),
            selection=place.selection if ids is None else None,
            ids=ids,
            back=back.url(memory_id=None),
            carried=[(k, v) for k, values in data.lists() if k not in OWN for v in values],
        )


@require_POST
@page
def plan(request: PageRequest) -> HttpResponse:
    """Shows what an action would do; nothing is changed. One that needs a value asks for it."""
    principal = request.principal
    principal.require(Scope.REVIEW, "Only reviewers and administrators change many at once.")
    try:
        # The form says what is meant; what stood in the address would leave out nothing.
        names.check_page(request.GET, ())
        bulk_request = BulkRequest.of(request.POST)
    except (InvalidInputError, NotFoundError) as error:
        return _refused(request, error, reverse("memories:browse"))
    if bulk_request.ids == []:
        messages.warning(request, "Nothing is ticked, so nothing was done.")
        return redirect(bulk_request.back)
    if bulk_request.words.asks and not bulk_request.value:
        return _ask(request, bulk_request)
    try:
        planned = bulk.plan(
            principal,
            bulk_request.action,
            selection=bulk_request.selection,
            ids=bulk_request.ids,
            value=bulk_request.value,
        )
    except InvalidInputError as error:
        if bulk_request.words.asks:
            return _ask(request, bulk_request, error.message)
        return _refused(request, error, bulk_request.back)
    except NotFoundError as error:
        return _refused(request, error, bulk_request.back)
    return _show(request, planned, back=bulk_request.back, chosen=bulk_request.ids is not None)


@require_safe
@page
def entity_delete(request: PageRequest) -> HttpResponse:
    """Shows what deleting all memories of a user, agent, app or run would do; scope `admin`."""
    type_, name = request.GET.get("type", ""), request.GET.get("name", "")
    back = f"{reverse('memories:entities')}?{_query(type=type_)}"
    try:
        names.check_page(request.GET, {"type", "name"})
        names.check_once(dict(request.GET.lists()), ("type", "name"))
        planned = bulk.entity_plan(request.principal, type_, name)
    except (InvalidInputError, NotFoundError) as error:
        return _refused(request, error, reverse("memories:entities"))
    return _show(request, planned, back=back, entity=(type_, name))


@require_POST
@page
def run(request: PageRequest) -> HttpResponse:
    """Does what was shown, or, where that is no longer what would happen, shows it again."""
    principal, data = request.principal, request.POST
    back = local_path(data.get("back") or reverse("memories:browse"))
    try:
        planned = bulk.read_token(principal, data.get("token", ""))
    except (ConflictError, InvalidInputError) as error:
        return _refused(request, error, back)
    entity = _entity_of(planned.match)
    word = confirmation(planned.act.action, planned.count, entity)
    if word and _typed(data.get("typed", "")) != _typed(word):
        message = f"Type “{word}” to confirm. Nothing was done."
        return _again(request, planned, back, 422, wrong=message)
    try:
        operation = bulk.run(principal, data.get("token", ""))
    except ConflictError as error:
        return _again(request, planned, back, 409, drift=error.message)
    return redirect_after_run(request, operation, back)


def redirect_after_run(
    request: PageRequest, operation: Operation, back: str
) -> HttpResponseRedirect:
    """To the operation's own page while it is at work, else back with what it came to."""
    if operation.is_active or operation.problem:
        return redirect("memories:operation", operation.id)
    sentences = [f"{done_words(operation)}."]
    if operation.unchanged:
        already = operation.unchanged
        sentences.append(f"{count_words(already)} {was_or_were(already)} so already.")
    if operation.skipped:
        skipped = operation.skipped
        sentences.append(
            f"{count_words(skipped)} had been changed meanwhile, and {was_or_were(skipped)} left."
        )
    undo = reverse("memories:operation-undo", args=[operation.id]) if operation.undo_until else ""
    messages.success(request, " ".join(sentences), extra_tags=undo)
    return redirect(back)


def done_words(operation: Operation) -> str:
    """What an operation has done: "12 memories deleted"."""
    words = ACTIONS[operation.action].done
    return words.format(n=count_words(operation.done), value=operation.value)


def confirmation(action: str, count: int, entity: tuple[str, str] | None) -> str:
    """What has to be typed before this is done; "" where a click is enough."""
    if entity:
        return entity[1]
    if action == "erase":
        return ERASE_WORD
    return f"{count:,}" if count > CLICKED else ""


def _show(
    request: PageRequest,
    bulk_plan: bulk.BulkPlan,
    *,
    back: str,
    entity: tuple[str, str] | None = None,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    words = ACTIONS[bulk_plan.action]
    count = count_words(bulk_plan.count)
    context = {
        "plan": bulk_plan,
        "words": words,
        "count": count,
        "entity": entity,
        "button": words.button.format(n=count),
        "typed_word": confirmation(bulk_plan.action, bulk_plan.count, entity),
        "undo_until": timezone.now() + timedelta(days=bulk_plan.undo_days),
        "at_once": bulk_plan.count <= bulk.AT_ONCE,
        "back": back,
        **more,
    }
    return render(request, "memories/bulk.html", context, status=status)


def _again(
    request: PageRequest, planned: bulk.ShownPlan, back: str, status: int, **more: Any
) -> HttpResponse:
    """A fresh look at the same action on the same match."""
    entity = _entity_of(planned.match)
    try:
        bulk_plan = bulk.make_plan(request.principal, planned.act, planned.match)
    except NotFoundError as error:
        return _refused(request, error, back)
    more["chosen"] = bool(planned.match.ids)
    return _show(request, bulk_plan, back=back, entity=entity, status=status, **more)


def _ask(request: PageRequest, bulk_request: BulkRequest, problem: str = "") -> HttpResponse:
    today = timezone.now().date()
    context = {
        "asked": bulk_request,
        "words": bulk_request.words,
        "problem": problem,
        "today": today.isoformat(),
        "days": [(label, (today + timedelta(days=n)).isoformat()) for label, n in DAYS],
        "confidences": Confidence.values,
        "which": _which(bulk_request),
    }
    return render(request, "memories/bulk_value.html", context, status=422 if problem else 200)


def _refused(request: PageRequest, error: Mem0dashError, back: str) -> HttpResponse:
    context = {"message": error.message, "back": back}
    return render(request, "memories/bulk_refused.html", context, status=error.status)


def _which(bulk_request: BulkRequest) -> str:
    if bulk_request.ids is None:
        return bulk_request.selection.words() if bulk_request.selection else ""
    return count_words(len(bulk_request.ids))


def _entity_of(match: bulk.BulkMatch) -> tuple[str, str] | None:
    entity: Sequence[str] | None = match.kept.get("entity")
    return (entity[0], entity[1]) if entity else None


def _typed(text: str) -> str:
    """What somebody typed, without what does not matter: white space around, separators in a
    number."""
    text = text.strip()
    digits = text.replace(",", "").replace(".", "").replace(" ", "")
    return digits if digits.isdecimal() else text


def _last(values: Sequence[str]) -> str:
    """The last one that says something: the button that was pressed stands after the field."""
    return next((value.strip() for value in reversed(values) if value.strip()), "")


def _query(**params: str) -> str:
    query = QueryDict(mutable=True)
    query.update(params)
    return query.urlencode()
