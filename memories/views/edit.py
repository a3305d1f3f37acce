"""Changing a memory: written, shown word by word, saved, unless others were faster."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from accounts.web import PageRequest, local_path, page
from core.errors import ConflictError, EngineError, InvalidInputError
from core.http.waiting import ProviderWait, waits_for, waits_when_posted
from core.principal import Scope
from memories import queries
from memories.browse.word_diff import Part, difference
from memories.editing import service as editing
from memories.models import Memory
from memories.views.browser.inspector import redirect_back, report_change
from memories.views.forms import EditForm, format_metadata, unix_lines


@dataclass(frozen=True, slots=True)
class EditPreview:
    """What saving would do: to the text, and to the metadata as it is written."""

    text: list[Part]
    metadata: list[Part]

    @property
    def text_changes(self) -> bool:
        return any(kind != "same" for kind, _ in self.text)

    @property
    def metadata_changes(self) -> bool:
        return any(kind != "same" for kind, _ in self.metadata)


@waits_for(waits_when_posted(ProviderWait.EMBEDDER))
@require_http_methods(["GET", "HEAD", "POST"])
@page
def edit(request: PageRequest, memory_id: UUID) -> HttpResponse:
    """GET: the form. POST: `step` review shows the change, edit goes back, save saves."""
    request.principal.require(Scope.WRITE)
    memory = queries.find(request.principal, memory_id)
    if request.method != "POST":
        return _form(request, memory, EditForm(initial=_initial(memory)))
    form = EditForm(request.POST)
    if not form.is_valid():
        return _form(request, memory, form, status=422)
    step = request.POST.get("step", "")
    if step == "edit":
        return _form(request, memory, form)
    if form.cleaned_data["rev"] != memory.rev:
        return _conflict(request, memory, form)
    if step != "save":
        return _review(request, memory, form)
    return _save(request, memory, form)


def _initial(memory: Memory) -> dict[str, Any]:
    return {"text": memory.text, "metadata": format_metadata(memory.metadata), "rev": memory.rev}


def _save(request: PageRequest, memory: Memory, form: EditForm) -> HttpResponse:
    values = form.cleaned_data
    try:
        editing.update_memory(
            request.principal,
            memory.id,
            text=_text_of(memory, form),
            metadata=values["metadata"] if values["metadata"] != memory.metadata else None,
            replace_metadata=True,
            expected_rev=values["rev"],
        )
    except ConflictError:
        return _conflict(request, queries.find(request.principal, memory.id), form)
    except (EngineError, InvalidInputError) as error:
        # What was written is still in the form.
        form.add_error(None, f"{error.message} Nothing was changed.")
        return _form(request, memory, form, status=error.status)
    report_change(request, memory.id, "Memory changed.")
    return redirect_back(request)


def _text_of(memory: Memory, form: EditForm) -> str:
    """The new text; the old one if the browser changed nothing but its line endings."""
    text: str = form.cleaned_data["text"]
    return memory.text if text == unix_lines(memory.text) else text


def _change(memory: Memory, form: EditForm) -> EditPreview:
    values = form.cleaned_data
    return EditPreview(
        text=difference(memory.text, _text_of(memory, form)),
        metadata=difference(format_metadata(memory.metadata), format_metadata(values["metadata"])),
    )


def _review(request: PageRequest, memory: Memory, form: EditForm) -> HttpResponse:
    change = _change(memory, form)
    if not (change.text_changes or change.metadata_changes):
        form.add_error(None, "Nothing has changed yet.")
        return _form(request, memory, form, status=422)
    return _render(request, "memories/edit_review.html", memory, form, change=change)


def _conflict(request: PageRequest, memory: Memory, form: EditForm) -> HttpResponse:
    """Others changed it since the form was opened: both texts, and what mine makes of theirs."""
    change = _change(memory, form)
    name = "memories/edit_conflict.html"
    return _render(request, name, memory, form, status=409, change=change)


def _form(
    request: PageRequest, memory: Memory, form: EditForm, *, status: int = 200
) -> HttpResponse:
    return _render(request, "memories/edit.html", memory, form, status=status)


def _render(
    request: PageRequest,
    name: str,
    memory: Memory,
    form: EditForm,
    *,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    data = request.POST if request.method == "POST" else request.GET
    address = data.get("next") or reverse("memories:browse") + f"?id={memory.id}"
    context = {"memory": memory, "form": form, "next": local_path(address), **more}
    if "change" in more:
        context["metadata"] = format_metadata(form.cleaned_data["metadata"])
    return render(request, name, context, status=status)
