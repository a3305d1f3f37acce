"""The filter menu: what can be asked of each field, with how many memories there are of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from accounts.web import PageRequest, page
from core.errors import InvalidInputError, NotUnderstoodError
from core.pages.partial import is_partial
from core.principal import Principal, Scope
from memories.browse import service as reads
from memories.browse.selection import DELETED, Selection
from memories.views.browser import listing, words
from memories.views.browser.place import BrowserAddress
from memories.views.browser.words import FieldWords

# What the form brings beside the fields themselves.
OTHER: Final = "other_"
FROM: Final = "from_"
UNTIL: Final = "until_"
_FORM: Final = frozenset(
    {"apply", *(f"{part}{name}" for part in (OTHER, FROM, UNTIL) for name in words.BY_NAME)}
)


@dataclass(frozen=True, slots=True)
class FilterValue:
    """One box to tick."""

    value: str
    label: str
    count: int | None
    chosen: bool


@dataclass(frozen=True, slots=True)
class FilterGroup:
    """A field with what can be asked of it. `more` is text that was typed, `span` two days; `note`
    stands where there is nothing to tick, or below it."""

    field: FieldWords
    values: list[FilterValue]
    chosen: int
    span: tuple[str, str] = ("", "")
    more: str = ""
    note: str = ""


@require_safe
@page
def filters(request: PageRequest) -> HttpResponse:
    """The menu, or all filters as a page; with `apply`, the list that they make."""
    principal = request.principal
    principal.require(Scope.READ)
    params = dict(request.GET.lists())
    problem = ""
    if "apply" in params:
        try:
            return redirect(BrowserAddress(selection_of_form(params)).url())
        except InvalidInputError as error:
            problem = error.message
    try:
        selection = Selection.of(params, beside=_FORM)
    except NotUnderstoodError:
        raise
    except InvalidInputError:
        selection = Selection()
    context = {
        "selection": selection,
        "groups": filter_groups(principal, selection, params if problem else {}),
        "kept": listing.hidden_fields(selection, "q", "mode", "sort"),
        "problem": problem,
        "clear_url": BrowserAddress(replace(selection, fields={})).url(),
        "browse_url": BrowserAddress(selection).url(),
    }
    partial = is_partial(request)
    name = "memories/_filters.html" if partial else "memories/filters.html"
    answer = render(request, name, context, status=422 if problem else 200)
    if partial and problem:
        answer.headers["HX-Retarget"] = "#filters"
        answer.headers["HX-Reswap"] = "innerHTML"
    return answer


def selection_of_form(params: Mapping[str, Sequence[str]]) -> Selection:
    """The selection that a filled-in form means; InvalidInputError for what no field can have."""
    lists: dict[str, list[str]] = {name: list(values) for name, values in params.items()}
    for field in words.FIELDS:
        typed = (lists.pop(f"{OTHER}{field.name}", None) or [""])[-1].strip()
        if typed:
            lists.setdefault(field.name, []).append(typed)
        first = (lists.pop(f"{FROM}{field.name}", None) or [""])[-1].strip()
        last = (lists.pop(f"{UNTIL}{field.name}", None) or [""])[-1].strip()
        if first or last:
            lists[field.name] = [f"{first}..{last}"]
        elif field.kind == "time":
            # The choice "any time" is an empty one.
            lists[field.name] = [value for value in lists.get(field.name, []) if value]
    return Selection.of(lists, beside=_FORM)


def filter_groups(
    principal: Principal, selection: Selection, typed: Mapping[str, Sequence[str]]
) -> list[FilterGroup]:
    """Every field that this caller can filter by. `typed` is what a form said that did not fit."""
    facets = reads.facets(principal, selection) | reads.more_facets(principal, selection)
    groups = []
    for field in words.FIELDS:
        if field.name == "deleted" and Scope.REVIEW not in principal.scopes:
            continue
        selected = selection.fields.get(field.name, ())
        values, span, more = _asked(field, selected, facets)
        if f"{FROM}{field.name}" in typed:
            span = (_last(typed, f"{FROM}{field.name}"), _last(typed, f"{UNTIL}{field.name}"))
        more = _last(typed, f"{OTHER}{field.name}") or more
        note = _note(field, values, facets)
        groups.append(FilterGroup(field, values, len(selected), span, more, note))
    return groups


def _note(field: FieldWords, values: Sequence[FilterValue], facets: Mapping[str, Any]) -> str:
    if field.name == "run_id" and field.name not in facets:
        return "There are many: choose a user, an agent or an app first, or name one."
    if field.kind == "metadata" and values:
        return f"Counted in the newest {reads.NEWEST:,}."
    return "" if values or field.kind != "values" else "No memory has one."


def _asked(
    field: FieldWords, selected: Sequence[str], by_field: Mapping[str, list[reads.FacetValue]]
) -> tuple[list[FilterValue], tuple[str, str], str]:
    def word(value: str) -> str:
        text = words.value_word(field.name, value)
        return text[:1].upper() + text[1:] if field.kind == "time" or not value else text

    if field.kind == "time":
        counts = {facet.value: facet.count for facet in by_field.get(field.name, [])}
        spans = [
            FilterValue(value, word(value), counts.get(value), value in selected)
            for value in words.SPANS
        ]
        own = next((value for value in selected if value not in words.SPANS), "")
        first, dots, last = own.partition("..")
        return spans, (first, last if dots else first), ""
    if field.kind == "metadata":
        keys = [
            FilterValue(f.value, f.value, f.count, f.value in selected)
            for f in by_field[field.name]
        ]
        known = {value.value for value in keys}
        typed = [FilterValue(value, value, None, True) for value in selected if value not in known]
        return [*typed, *keys], ("", ""), ""
    if field.name == "deleted":
        label = "Deleted, not yet removed"
        return [FilterValue(DELETED, label, None, DELETED in selected)], ("", ""), ""
    facets = by_field.get(field.name, [])
    listed = [FilterValue(f.value, word(f.value), f.count, f.chosen) for f in facets]
    known = {value.value for value in listed}
    listed += [FilterValue(value, word(value), 0, True) for value in selected if value not in known]
    return listed, ("", ""), ""


def _last(params: Mapping[str, Sequence[str]], name: str) -> str:
    values: Any = params.get(name) or [""]
    return str(values[-1])
