"""The list of memories: searched, filtered, sorted, paged; all of it stands in the address."""

from typing import Any, Final

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts.web import PageRequest, page
from core.http.public import base_url
from core.http.waiting import waits_for
from core.pages.partial import is_partial
from core.pages.tabular import download
from core.principal import Principal, Scope
from memories import visibility
from memories.browse import export as writing
from memories.browse import service as reads
from memories.browse.selection import DELETED, Selection
from memories.views.browser import listing
from memories.views.browser.inspector import inspector_context
from memories.views.browser.place import BrowserAddress, search_waits
from memories.views.browser.saved import list_shown_views

# What the list's last column says, where it is not when a memory was created.
WHEN: Final = {
    "updated": "Updated",
    "expiring": "Expires",
    "most_retrieved": "Retrieved",
    "last_retrieved": "Last retrieved",
}


@waits_for(search_waits)
@require_safe
@page
def browse(request: PageRequest) -> HttpResponse:
    """The list, with the memory that the address names beside it."""
    request.principal.require(Scope.READ)
    place = BrowserAddress.of(dict(request.GET.lists()))
    partial = is_partial(request)
    if partial and request.htmx.target == "inspector-slot":
        context = inspector_context(request, place, listed=None)
        answer = render(request, "memories/_slot.html", context)
    else:
        context = list_context(request, place)
        place = context["place"]
        name = "memories/_answer.html" if partial else "memories/browse.html"
        answer = render(request, name, context | {"partial": partial})
    if partial:
        answer.headers["HX-Push-Url"] = place.url()
    return answer


def list_context(request: PageRequest, place: BrowserAddress) -> dict[str, Any]:
    """What the list and the inspector beside it show."""
    principal = request.principal
    selection = place.selection
    found = reads.read_page(principal, selection, number=place.number)
    place = BrowserAddress(selection, found.number, place.memory_id)
    rows = listing.list_rows(found, place)
    first = (found.number - 1) * found.per_page
    return {
        "selection": selection,
        "page": found,
        "rows": rows,
        "first": first + 1,
        "last": first + len(rows),
        "chips": listing.filter_chips(place),
        "is_filtered": bool(selection.fields or selection.q),
        "bin_url": "" if rows else _bin_url(principal, selection),
        "retention_days": principal.project.retention_days,
        "told": selection.words(),
        "in_search": listing.hidden_fields(selection, "fields", "sort"),
        "params": selection.params(),
        "sorts": listing.sorts(place),
        "sort_word": listing.sort_word(selection),
        "when": WHEN.get(selection.sort, "Created"),
        "pages": listing.page_links(place, found),
        "exports": listing.export_choices(selection),
        "filters_url": listing.filters_url(selection),
        "clear_url": BrowserAddress(Selection()).url(),
        "views": list_shown_views(principal, selection),
        "may_select": Scope.REVIEW in principal.scopes,
        "may_add": Scope.WRITE in principal.scopes,
        "may_erase": Scope.ADMIN in principal.scopes and selection.deleted,
        "selects_all": found.mode != "meaning" and found.total > len(rows),
        "by_words_url": listing.url_by_words(place),
        "by_meaning_url": listing.url_by_meaning(place),
        "base_url": base_url(request),
    } | inspector_context(request, place, listed=[row.memory.id for row in rows])


def _bin_url(principal: Principal, selection: Selection) -> str:
    """Where nothing is left, the way to what was deleted; "" if there is none, or for a filter."""
    if not selection.is_everything or Scope.REVIEW not in principal.scopes:
        return ""
    deleted = BrowserAddress(Selection(fields={"deleted": (DELETED,)})).url()
    return deleted if visibility.filter_restorable(principal).exists() else ""


@require_safe
@page
def export(request: PageRequest) -> HttpResponseBase:
    """Everything that the selection matches, as a file: `format` is json, jsonl or csv."""
    principal = request.principal
    principal.require(Scope.READ)
    wanted = request.GET.get("format", "")
    selection = Selection.of(dict(request.GET.lists()), beside={"format"})
    pieces = writing.export(principal, selection, wanted)
    return download(pieces, f"memories-{principal.project.slug}", wanted)
