"""Saved views: selections under a name, for oneself or for everyone in the project."""

from dataclasses import dataclass
from typing import Final

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from accounts.web import PageRequest, page
from core import names
from core.errors import ConflictError, InvalidInputError
from core.principal import Principal, Scope
from memories.browse import saved_views
from memories.browse.selection import Selection
from memories.models import SavedView
from memories.views.browser.inspector import redirect_back
from memories.views.browser.place import BrowserAddress
from memories.views.forms import ViewForm

# What the form that saves a view says beside the selection.
FORM: Final = frozenset({"csrfmiddlewaretoken", "name", "shared", "page", "id"})


@dataclass(frozen=True, slots=True)
class ShownView:
    """A view as menu and page show it. `url` is "" where this version cannot read it."""

    view: SavedView
    url: str
    told: str
    is_own: bool
    may_delete: bool
    is_open: bool = False


def list_shown_views(principal: Principal, selection: Selection | None = None) -> list[ShownView]:
    """The views of the caller and of the project; `selection` is the one that is looked at."""
    rows = []
    for view in saved_views.list_views(principal):
        try:
            stored = saved_views.selection_of(view)
            url, description = BrowserAddress(stored).url(), stored.words()
        except InvalidInputError:
            stored, url, description = None, "", "A newer or older version of the server made it."
        is_own = view.owner_id == principal.account_id
        rows.append(
            ShownView(
                view=view,
                url=url,
                told=description,
                is_own=is_own,
                may_delete=is_own or Scope.ADMIN in principal.scopes,
                is_open=stored is not None and stored == selection,
            )
        )
    return rows


@require_safe
@page
def views(request: PageRequest) -> HttpResponse:
    """All views, to rename and to delete."""
    names.check_page(request.GET, ())
    return render(request, "memories/views.html", {"views": list_shown_views(request.principal)})


@require_POST
@page
def save(request: PageRequest) -> HttpResponse:
    """Keeps the selection that the form carries under a name."""
    selection = Selection.of(dict(request.POST.lists()), beside=FORM)
    form = ViewForm(request.POST)
    if not form.is_valid():
        return _again(request, form, selection)
    name, is_shared = form.cleaned_data["name"], form.cleaned_data["shared"]
    try:
        view = saved_views.save(request.principal, name, selection, shared=is_shared)
    except (InvalidInputError, ConflictError) as error:
        form.add_error("name", error.message)
        return _again(request, form, selection)
    messages.success(request, f"View “{view.name}” saved.")
    return redirect(BrowserAddress(selection).url())


def _again(request: PageRequest, form: ViewForm, selection: Selection) -> HttpResponse:
    context = {
        "form": form,
        "params": selection.params(),
        "told": selection.words(),
        "browse_url": BrowserAddress(selection).url(),
        "may_share": Scope.REVIEW in request.principal.scopes,
    }
    return render(request, "memories/view_save.html", context, status=422)


@require_POST
@page
def rename(request: PageRequest, view_id: int) -> HttpResponse:
    """Gives a view of one's own another name."""
    form = ViewForm(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for error in form.errors["name"]))
    else:
        try:
            view = saved_views.rename(request.principal, view_id, form.cleaned_data["name"])
            messages.success(request, f"The view is called “{view.name}” now.")
        except (InvalidInputError, ConflictError) as error:
            messages.error(request, error.message)
    return redirect(reverse("memories:views"))


@require_POST
@page
def delete(request: PageRequest, view_id: int) -> HttpResponse:
    """Deletes a view; what it shows stays."""
    view = saved_views.delete(request.principal, view_id)
    messages.success(request, f"View “{view.name}” deleted.")
    return redirect_back(request)
