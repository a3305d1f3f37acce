"""Where somebody is in the memory browser: all of it stands in the address."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID

from django.urls import reverse

from core import names
from core.errors import InvalidInputError, NotFoundError
from core.http.waiting import IncomingRequest, ProviderWait
from memories.browse.selection import Selection
from memories.visibility import as_uuid


@dataclass(frozen=True, slots=True)
class BrowserAddress:
    """What is listed, which page of it, and which memory stands open."""

    selection: Selection
    number: int = 1
    memory_id: UUID | None = None

    @classmethod
    def of(
        cls, params: Mapping[str, Sequence[str]], *, beside: Collection[str] = ()
    ) -> "BrowserAddress":
        """From a QueryDict's lists; `beside` is what else a form says.

        InvalidInputError for what no filter has; NotFoundError for an id that is none.
        """
        selection = Selection.of(params, beside={"page", "id", *beside})
        names.check_once(params, ("page", "id"))
        memory_id = (params.get("id") or [""])[-1]
        number = names.page_number((params.get("page") or ["1"])[-1])
        return cls(selection, number, as_uuid(memory_id) if memory_id else None)

    @classmethod
    def at(cls, path: str) -> "BrowserAddress | None":
        """The place that an address of the browser names, None for any other."""
        try:
            split = urlsplit(path)
            if split.path != reverse("memories:browse"):
                return None
            return cls.of(parse_qs(split.query, keep_blank_values=True))
        except (InvalidInputError, NotFoundError, ValueError):  # the last one for "//["
            return None

    def url(self, **changes: Any) -> str:
        """The address of this place with `selection`, `number` or `memory_id` changed."""
        place = replace(self, **changes)
        params = place.selection.params()
        if place.number > 1:
            params.append(("page", str(place.number)))
        if place.memory_id is not None:
            params.append(("id", str(place.memory_id)))
        path = reverse("memories:browse")
        return f"{path}?{urlencode(params)}" if params else path


def search_waits(request: IncomingRequest) -> ProviderWait:
    """Whom a list may wait for: a search by meaning needs the vector of its query."""
    if b"q=" not in request.query:
        return ProviderWait.NOBODY
    params = request.parameters()
    by_words = params.get("mode", [""])[-1] == "words"
    return ProviderWait.NOBODY if by_words or not any(params.get("q", ())) else ProviderWait.QUERY
