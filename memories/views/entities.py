"""Users, agents, apps and runs: how much each owns, and the way to delete all of it."""

from typing import Any, Final

from django.http import HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from accounts.web import PageRequest, page
from core import names
from core.errors import InvalidInputError
from core.principal import Scope
from memories.browse.entities import COUNTED, entity_counts, entity_page, field_of

# The type, its words for one and for many, its icon.
TYPES: Final = (
    ("user", "user", "Users", "user"),
    ("agent", "agent", "Agents", "robot"),
    ("app", "app", "Apps", "apps"),
    ("run", "run", "Runs", "route"),
)
# What the head of a column sorts by at first, and at the second click.
COLUMNS: Final = (
    ("Name", "name", "name-desc", "ascending"),
    ("Memories", "most", "fewest", "descending"),
    ("Last change", "recent", "oldest", "descending"),
)
LONGEST: Final = 255
NAMES: Final = frozenset({"type", "q", "sort", "page"})


@require_safe
@page
def entities(request: PageRequest) -> HttpResponse:
    """The entities of one type, found by name, sorted by name, number or last change."""
    params = request.GET
    names.check_page(params, NAMES)
    names.check_once(dict(params.lists()), NAMES)
    type_, sort = params.get("type", "user"), params.get("sort", "recent")
    q = params.get("q", "").strip()
    if len(q) > LONGEST:
        raise InvalidInputError(f"A name has at most {LONGEST} characters.")
    listing = entity_page(
        request.principal, type_, q=q, sort=sort, number=names.page_number(params.get("page", "1"))
    )
    counts = entity_counts(request.principal)
    if not q:
        counts[type_] = listing.total
    first = (listing.number - 1) * listing.per_page
    context = {
        "found": listing,
        "first": first + 1,
        "last": first + len(listing.rows),
        "field": field_of(type_),
        "type": _type(type_),
        "q": q,
        "sort": sort,
        "tabs": [_tab(known, counts[known[0]], type_, sort) for known in TYPES],
        "columns": [_column(*column, type_=type_, q=q, sort=sort) for column in COLUMNS],
        "previous": _url(type_, q, sort, listing.number - 1) if listing.number > 1 else "",
        "next": _url(type_, q, sort, listing.number + 1) if listing.number < listing.pages else "",
        "may_delete": Scope.ADMIN in request.principal.scopes,
    }
    return render(request, "memories/entities.html", context)


def _type(type_: str) -> dict[str, str]:
    [(_, one, many, icon)] = [known for known in TYPES if known[0] == type_]
    return {"name": type_, "one": one, "many": many, "icon": icon}


def _tab(
    entity_type: tuple[str, str, str, str], count: int, current: str, sort: str
) -> dict[str, Any]:
    return {
        "label": entity_type[2],
        "icon": entity_type[3],
        "count": min(count, COUNTED) if entity_type[0] != current else count,
        "more": count > COUNTED and entity_type[0] != current,
        "url": _url(entity_type[0], "", sort, 1),
        "current": entity_type[0] == current,
    }


def _column(
    label: str, first: str, second: str, direction: str, *, type_: str, q: str, sort: str
) -> dict[str, Any]:
    other = "descending" if direction == "ascending" else "ascending"
    return {
        "label": label,
        "url": _url(type_, q, second if sort == first else first, 1),
        "sorted": {first: direction, second: other}.get(sort, ""),
        "id": first,
    }


def _url(type_: str, q: str, sort: str, number: int) -> str:
    """The address of this page with these choices; what is usual is left out."""
    query = QueryDict(mutable=True)
    query["type"] = type_
    for name, value, usual in (("q", q, ""), ("sort", sort, "recent"), ("page", number, 1)):
        if value != usual:
            query[name] = str(value)
    return f"{reverse('memories:entities')}?{query.urlencode()}"
