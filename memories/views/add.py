"""Adding a memory by hand."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from accounts.web import PageRequest, local_path, page
from core.errors import EngineError, InvalidInputError, PermissionDeniedError
from core.http.waiting import IncomingRequest, ProviderWait, waits_for
from core.principal import Scope
from memories.adding.service import add_memories, can_extract
from memories.browse.selection import Selection
from memories.models import ENTITY_FIELDS
from memories.views.browser.place import BrowserAddress
from memories.views.forms import EXTRACTED, VERBATIM, AddForm
from memories.visibility import as_uuid


def _waits(request: IncomingRequest) -> ProviderWait:
    """Word for word it asks no LLM. A form in parts is not read for that."""
    if request.method != "POST":
        return ProviderWait.NOBODY
    return (
        ProviderWait.EMBEDDER
        if request.form().get("how", ())[-1:] == [VERBATIM]
        else ProviderWait.LLM
    )


@waits_for(_waits)
@require_http_methods(["GET", "HEAD", "POST"])
@page
def add(request: PageRequest) -> HttpResponse:
    """GET: the form, filled in with the entities that the address names. POST: stores it."""
    principal = request.principal
    principal.require(Scope.WRITE)
    may_extract, user_id = can_extract(), principal.project.default_user_id
    if request.method != "POST":
        entities = {name: request.GET[name] for name in ENTITY_FIELDS if request.GET.get(name)}
        initial = {"source": "dashboard", **entities}
        form = AddForm(initial=initial, may_extract=may_extract, default_user_id=user_id)
        return _form(request, form)
    form = AddForm(request.POST, may_extract=may_extract, default_user_id=user_id)
    if not form.is_valid():
        return _form(request, form, status=422)
    return _store(request, form)


def _store(request: PageRequest, form: AddForm) -> HttpResponse:
    values = form.cleaned_data
    try:
        outcome = add_memories(
            request.principal,
            messages=[{"role": "user", "content": values["text"]}],
            entities={name: values[name] or None for name in ENTITY_FIELDS},
            metadata=_metadata(values),
            expiration_date=values["last_day"],
            infer=values.get("how") == EXTRACTED,
        )
    except (InvalidInputError, PermissionDeniedError, EngineError) as error:
        form.add_error(None, error.message)
        status = 422 if isinstance(error, InvalidInputError) else error.status
        return _form(request, form, status=status)
    ids = [as_uuid(result["id"]) for result in outcome.results if result.get("event") != "DELETE"]
    if not ids:
        form.add_error(
            None, "Nothing was stored: the language model found nothing in it to remember."
        )
        return _form(request, form, status=422)
    message = "Memory added." if len(ids) == 1 else f"{len(ids)} memories added."
    messages.success(request, message)
    return redirect(BrowserAddress(Selection(), memory_id=ids[0]).url())


def _metadata(values: dict[str, Any]) -> dict[str, Any]:
    provenance = {name: values[name] for name in ("source", "confidence") if values[name]}
    return {**values["metadata"], **provenance}


def _form(request: PageRequest, form: AddForm, *, status: int = 200) -> HttpResponse:
    data = request.POST if request.method == "POST" else request.GET
    address = data.get("next") or reverse("memories:browse")
    context = {"form": form, "next": local_path(address)}
    return render(request, "memories/add.html", context, status=status)
