"""The page Connected apps: which apps have access, and taking it from them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from accounts.web import PageRequest, page
from core import names
from core.http.middleware import client_address
from oauth import service
from oauth.views import words

# Access that nobody has used for so long is likely forgotten.
IDLE: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class AppRow:
    """A line of the list: one app, of one person, in one project."""

    id: UUID
    name: str
    mark: str
    destination: str
    permissions: str
    # "" in the project of the page.
    project: str
    person: str
    since: datetime
    last_used_at: datetime | None
    last_address: str
    is_idle: bool


@require_safe
@page
def apps(request: PageRequest) -> HttpResponse:
    """The list: a person's own, and for an administrator all of the project."""
    names.check_page(request.GET, ())
    found = service.connected_apps(request.principal)
    return render(request, "oauth/apps.html", {"apps": [_row(app, request) for app in found]})


@require_POST
@page
def revoke(request: PageRequest, id_: UUID) -> HttpResponse:
    """Ends the access at once. NotFoundError for one that is not there, or not the caller's."""
    app = service.revoke_app(request.principal, id_, address=client_address(request))
    name = words.app_name(app.name)
    messages.success(
        request,
        f"“{name}” has lost its access. Its next call gets a 401. To undo this, connect it again.",
    )
    return redirect("connected-apps")
