"""The page Connected apps: which apps have access, and taking it from them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.web import PageRequest, page
from core import names
from oauth import service
from oauth.service import ConnectedApp
from oauth.views import words

# Access that nobody has used for so long is likely forgotten.
IDLE: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class AppRow:
    """A line of the list: the access of one app, in words. `project` is "" where it is the one of
    the page."""

    app: ConnectedApp
    name: str
    mark: str
    destination: str
    permissions: str
    project: str
    is_idle: bool


@require_safe
@page
def apps(request: PageRequest) -> HttpResponse:
    """The list: one's own, for an administrator all of the project, and for the owner all."""
    names.check_page(request.GET, ())
    found = service.connected_apps(request.principal)
    here, idle = request.principal.project.id, timezone.now() - IDLE
    return render(request, "oauth/apps.html", {"rows": [_row(app, here, idle) for app in found]})


@require_POST
@page
def revoke(request: PageRequest, id_: UUID) -> HttpResponse:
    """Ends the access at once. NotFoundError where it has ended, or is not the caller's to end."""
    known = {app.id: app.name for app in service.connected_apps(request.principal)}
    service.revoke_app(request.principal, id_)
    messages.success(
        request,
        f"“{words.app_name(known.get(id_, ''))}” has lost its access. Its next call gets a 401. "
        "To give the access back, connect the app again.",
    )
    return redirect("connected-apps")


def _row(app: ConnectedApp, here: UUID, idle: datetime) -> AppRow:
    name = words.app_name(app.name)
    return AppRow(
        app=app,
        name=name,
        mark=words.mark(name),
        destination=words.destinations(app.destinations),
        permissions=words.permissions(app.scopes),
        project="" if app.project_id == here else app.project,
        is_idle=(app.last_used_at or app.since) < idle,
    )
