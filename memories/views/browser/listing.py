"""The pieces of the list: rows, chips, menus, the way to other pages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from memories import visibility
from memories.browse import service as reads
from memories.browse.selection import Selection
from memories.browse.service import MemoryPage
from memories.models import Memory
from memories.retrievals import Retrieval
from memories.views.browser import marks, words
from memories.views.browser.place import BrowserAddress

SHOWN_LABELS: Final = 4
# Two lines are less; more of them only make the page larger.
SHOWN_LETTERS: Final = 400
FORMATS: Final = {
    "json": ("JSON", "one document"),
    "jsonl": ("JSON Lines", "one memory a line"),
    "csv": ("CSV", "for spreadsheets"),
}


@dataclass(frozen=True, slots=True)
class ListedMemory:
    """A memory as the list shows it: `text` cut and marked, `labels` are (text, class of the state
    or "")."""

    memory: Memory
    text: SafeString
    url: str
    is_open: bool
    labels: list[tuple[str, str]]
    more_labels: int
    score: float | None
    ends: datetime | None
    retrieval: Retrieval | None


@dataclass(frozen=True, slots=True)
class FilterChip:
    """A filter that is on, and the address without it."""

    label: str
    told: str
    in_full: str
    url: str


@dataclass(frozen=True, slots=True)
class LinkChoice:
    """A way to somewhere: a sort order, a format."""

    label: str
    note: str
    url: str
    is_chosen: bool = False


@dataclass(frozen=True, slots=True)
class PageLinks:
    """The ways to other pages; "" where there is none."""

    first: str
    previous: str
    next: str
    last: str


def list_rows(page: MemoryPage, place: BrowserAddress) -> list[ListedMemory]:
    found_by_meaning = page.rows if page.mode == "meaning" else []
    marked = marks.marks_of(place.selection, found_by_meaning)
    rows = []
    for memory in page.rows:
        every = _labels(memory)
        rows.append(
            ListedMemory(
                memory=memory,
                text=marks.html(memory.text, marked.get(memory.id, ()), at_most=SHOWN_LETTERS),
                url=place.url(memory_id=memory.id),
                is_open=memory.id == place.memory_id,
                labels=every[:SHOWN_LABELS],
                more_labels=len(every[SHOWN_LABELS:]),
                score=page.scores.get(memory.id),
                ends=ends_at(memory),
                retrieval=page.retrieved.get(memory.id),
            )
        )
    return rows


def _labels(memory: Memory) -> list[tuple[str, str]]:
    """What stands below a text: what a reviewer has to know first, then categories and source."""
    labels = []
    if memory.deleted_at is not None:
        labels.append(("Deleted", "bad"))
    if state := words.STATES[memory.review_status]:
        labels.append((words.value_word("review_status", memory.review_status), state))
    if visibility.has_expired(memory, timezone.now()):
        labels.append(("Expired", "warn"))
    labels += [(str(category), "") for category in memory.categories]
    if memory.source:
        labels.append((memory.source, ""))
    return labels


def ends_at(memory: Memory) -> datetime | None:
    """When it stops to hold, None for never."""
    end = reads.ends_at(memory)
    return None if end == reads.LAST else end


def filter_chips(place: BrowserAddress) -> list[FilterChip]:
    """The filters that are on, in the order of the menu."""
    selection = place.selection
    chips = []
    for field in words.FIELDS:
        values = selection.fields.get(field.name)
        if not values:
            continue
        chips.append(
            FilterChip(
                label=field.label,
                told=words.values_word(field.name, values),
                in_full=", ".join(words.value_word(field.name, value) for value in values),
                url=_listed(selection.minus(field.name)),
            )
        )
    return chips


def hidden_fields(selection: Selection, *parts: str) -> list[tuple[str, str]]:
    """The parameters of `parts` (q, mode, fields, sort) for a form that brings the others."""
    own = {name for name in ("q", "mode", "sort") if name not in parts}
    return [
        (name, value)
        for name, value in selection.params()
        if name not in own and ("fields" in parts or name not in words.BY_NAME)
    ]


def sorts(place: BrowserAddress) -> list[LinkChoice]:
    """The orders that this list can stand in."""
    current = place.selection.sort
    by_meaning = place.selection.by_meaning
    return [
        LinkChoice(label, "", _listed(replace(place.selection, sort=name)), name == current)
        for name, label in words.SORTS.items()
        if name != "best" or by_meaning
    ]


def sort_word(selection: Selection) -> str:
    return words.SORTS[selection.sort]


def page_links(place: BrowserAddress, page: MemoryPage) -> PageLinks:
    number, count = page.number, max(page.pages, 1)

    def to(target: int) -> str:
        return place.url(number=target, memory_id=None) if target != number else ""

    return PageLinks(
        first=to(1),
        previous=to(max(1, number - 1)),
        next=to(min(count, number + 1)),
        last=to(count),
    )


def export_choices(selection: Selection) -> list[LinkChoice]:
    """The files that the selection can become; none for a search by meaning, which has no end."""
    if selection.by_meaning:
        return []
    path = reverse("memories:memories-export")
    return [
        LinkChoice(label, note, f"{path}?{urlencode([*selection.params(), ('format', name)])}")
        for name, (label, note) in FORMATS.items()
    ]


def filters_url(selection: Selection) -> str:
    return _with(reverse("memories:filters"), selection.params())


def url_by_words(place: BrowserAddress) -> str:
    """The same search, for what holds the words."""
    return _listed(replace(place.selection, mode="words", sort="newest"))


def url_by_meaning(place: BrowserAddress) -> str:
    """The same search, for what is like it."""
    return _listed(replace(place.selection, mode="meaning", sort="best"))


def _listed(selection: Selection) -> str:
    """From the beginning, and with nothing open: another list has other pages."""
    return BrowserAddress(selection).url()


def _with(path: str, params: Sequence[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(params)}" if params else path
