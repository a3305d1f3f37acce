"""One memory beside the list: what it says, where it comes from, what became of it; and what a
reviewer sets right there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts.web import PageRequest, local_path, page
from core.errors import ConflictError, InvalidInputError, NotFoundError
from core.http.waiting import ProviderWait, waits_for
from core.principal import Scope
from memories import queries, visibility
from memories.browse import service as reads
from memories.browse.selection import Selection
from memories.browse.word_diff import Part, difference
from memories.editing import service as editing
from memories.models import ENTITY_FIELDS, Confidence, Memory, ReviewStatus, Revision
from memories.review import service as reviewing
from memories.views.browser import marks, words
from memories.views.browser.place import BrowserAddress
from memories.views.forms import format_metadata

# How far ahead the expiry's menu offers a day.
AHEAD: Final = (("In 7 days", 7), ("In 30 days", 30), ("In a year", 365))


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """An entry of the history: what was done, by whom, and what it changed."""

    revision: Revision
    word: str
    kind: str
    actor: str
    parts: list[Part]
    changes: list[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class NearMemory:
    """A similar memory; `score` is the cosine of their vectors."""

    memory: Memory
    score: float
    url: str


@dataclass(frozen=True, slots=True)
class MemoryFact:
    """A labelled value of the memory, with the way to all that share it."""

    label: str
    value: str
    url: str


def inspector_context(
    request: PageRequest, place: BrowserAddress, *, listed: Sequence[UUID] | None
) -> dict[str, Any]:
    """What the inspector shows. `listed` are the ids beside it in their order, None where the page
    that is already there knows them. A memory that is gone, or that never was, is told as such."""
    context: dict[str, Any] = {"place": place, "here": place.url(), "closed_url": ""}
    if place.memory_id is None:
        return context | {"inspects": False}
    context |= {"inspects": True, "closed_url": place.url(memory_id=None)}
    try:
        detail = reads.get_detail(request.principal, place.memory_id)
    except NotFoundError:
        return context | {"detail": None}
    memory = detail.memory
    scopes = request.principal.scopes
    marked = marks.marks_of(place.selection, [memory]).get(memory.id, ())
    return context | {
        "detail": detail,
        "memory": memory,
        "text": marks.html(memory.text, marked),
        "answered": marks.legend(place.selection, memory.text, marked),
        "facts": _facts(memory),
        "status": words.value_word("review_status", memory.review_status),
        "state": words.STATES[memory.review_status],
        "statuses": _options("review_status", ReviewStatus.values, memory.review_status),
        "confidence": words.value_word("confidence", memory.confidence),
        "confidences": _options("confidence", Confidence.values, memory.confidence),
        "expired": visibility.has_expired(memory, timezone.now()),
        "ahead": [(label, timezone.now() + timedelta(days=days)) for label, days in AHEAD],
        "metadata": format_metadata(memory.metadata),
        "similar": [
            NearMemory(near.memory, near.score, place.url(memory_id=near.memory.id))
            for near in detail.similar
        ],
        "events": [_event(entry) for entry in detail.history],
        "may_review": Scope.REVIEW in scopes and memory.deleted_at is None,
        "may_write": Scope.WRITE in scopes and memory.deleted_at is None,
        "may_restore": Scope.REVIEW in scopes and memory.deleted_at is not None,
        "gone_on": _gone_on(request, memory),
        **_steps(place, listed),
    }


def _facts(memory: Memory) -> list[MemoryFact]:
    facts = []
    for name in ENTITY_FIELDS:
        if value := getattr(memory, name):
            url = BrowserAddress(Selection(fields={name: (value,)})).url()
            facts.append(MemoryFact(words.BY_NAME[name].label, value, url))
    if memory.source:
        url = BrowserAddress(Selection(fields={"source": (memory.source,)})).url()
        facts.append(MemoryFact("Source", memory.source, url))
    return facts


def _options(field: str, values: Sequence[str], current: str) -> list[tuple[str, str, bool]]:
    return [(value, words.value_word(field, value), value == current) for value in values]


def _event(entry: reads.HistoryEntry) -> HistoryEvent:
    revision = entry.revision
    old, new = revision.old_text, revision.new_text
    if old is not None and new is not None and old != new:
        parts = difference(old, new)
    else:
        text = new if revision.event == "ADD" else None
        parts = [("same", text)] if text else []
    word, look = words.EVENTS.get(revision.event, (revision.event.capitalize(), "update"))
    return HistoryEvent(
        revision=revision,
        word=word,
        kind=look,
        actor=entry.actor,
        parts=parts,
        changes=words.changes_words(revision.changes),
    )


def _steps(place: BrowserAddress, listed: Sequence[UUID] | None) -> dict[str, str]:
    """The addresses of the memories before and after it in the list, "" at its ends."""
    urls = {"previous_url": "", "next_url": ""}
    if listed is None or place.memory_id not in listed:
        return urls
    at = listed.index(place.memory_id)
    if at > 0:
        urls["previous_url"] = place.url(memory_id=listed[at - 1])
    if at + 1 < len(listed):
        urls["next_url"] = place.url(memory_id=listed[at + 1])
    return urls


def _gone_on(request: PageRequest, memory: Memory) -> Any:
    """When a deleted memory is removed for good."""
    if memory.deleted_at is None:
        return None
    return memory.deleted_at + timedelta(days=request.principal.project.retention_days)


@require_POST
@page
def review(request: PageRequest, memory_id: UUID) -> HttpResponse:
    """Sets the review status."""
    status = request.POST.get("status", "")
    reviewing.set_review(request.principal, memory_id, status)
    report_change(
        request, memory_id, f"Marked as {words.value_word('review_status', status).lower()}."
    )
    return redirect_back(request)


@require_POST
@page
def confidence(request: PageRequest, memory_id: UUID) -> HttpResponse:
    """Sets how much the memory is to be trusted."""
    value = request.POST.get("confidence", "")
    reviewing.set_confidence(request.principal, memory_id, value)
    report_change(request, memory_id, f"The confidence is {value} now.")
    return redirect_back(request)


@require_POST
@page
def expiry(request: PageRequest, memory_id: UUID) -> HttpResponse:
    """Sets the last day (UTC) on which the memory holds; "" for no end."""
    if "day" not in request.POST:
        raise InvalidInputError("The form names no last day. Nothing was changed.")
    day = request.POST["day"].strip()
    reviewing.set_expiry(request.principal, memory_id, day)
    report_change(
        request, memory_id, f"It expires after {day}." if day else "It never expires now."
    )
    return redirect_back(request)


@require_POST
@page
def delete(request: PageRequest, memory_id: UUID) -> HttpResponse:
    """Deletes it at once: whoever did that can undo it."""
    editing.delete_memory(request.principal, memory_id)
    report_change(request, memory_id, "Memory deleted.")
    return redirect_back(request, closed=True)


@require_POST
@page
def restore(request: PageRequest, memory_id: UUID) -> HttpResponse:
    """Brings a deleted memory back as it was."""
    editing.restore_memories(request.principal, [memory_id])
    messages.success(request, "Memory restored.")
    return redirect_back(request)


@waits_for(ProviderWait.EMBEDDER)
@require_POST
@page
def undo(request: PageRequest, memory_id: UUID, revision_id: int) -> HttpResponse:
    """Takes back the memory's last change, unless others have changed it since."""
    try:
        editing.undo_change(request.principal, memory_id, revision_id)
        messages.success(request, "Undone.")
    except ConflictError as error:
        messages.error(request, error.message)
    return redirect_back(request)


def report_change(request: PageRequest, memory_id: UUID, message: str) -> None:
    """Shows the outcome of a change, with a link to undo it."""
    principal = request.principal
    revisions = [
        revision.id
        for revision in queries.history(principal, memory_id)
        if revision.request_id and revision.request_id == principal.request_id
    ]
    way = reverse("memories:memory-undo", args=[memory_id, revisions[-1]]) if revisions else ""
    messages.success(request, message, extra_tags=way)


def redirect_back(request: PageRequest, *, closed: bool = False) -> HttpResponse:
    """Redirects to the page that sent the form; with `closed`, without its open memory."""
    path = local_path(request.POST.get("next") or reverse("memories:browse"))
    place = BrowserAddress.at(path)
    if closed and place is not None:
        path = replace(place, memory_id=None).url()
    return redirect(path)
