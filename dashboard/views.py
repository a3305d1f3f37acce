"""The overview, and the theme of the pages."""

from django.conf import settings
from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from accounts.web import PageRequest, local_path, page
from core.http.public import base_url
from core.pages.answers import THEME_COOKIE, THEMES
from core.pages.partial import is_partial
from core.principal import Scope
from dashboard.condition import list_components
from memories.adding.failed import summarise_failed_adds
from memories.browse.totals import count_totals
from operations.queries import recent_requests

SHOWN_REQUESTS = 8
THEME_SECONDS = 365 * 86_400


@require_safe
@page
def overview(request: PageRequest) -> HttpResponse:
    """What is stored, what failed, the last requests, and the health of all components."""
    principal = request.principal
    may_manage = Scope.ADMIN in principal.scopes
    found = list_components(may_manage=may_manage)
    context = {
        "totals": count_totals(principal),
        "failed": summarise_failed_adds(principal),
        "requests": recent_requests(principal, limit=SHOWN_REQUESTS) if may_manage else None,
        "parts": found,
        "problems": [part for part in found if part.is_problem],
        "may_manage": may_manage,
        "base_url": base_url(request),
    }
    partial = is_partial(request)
    name = "dashboard/_overview.html" if partial else "dashboard/overview.html"
    return render(request, name, context)


@require_POST
@page
def theme(request: PageRequest) -> HttpResponse:
    """Keeps light or dark in this browser, or follows the system again."""
    answer = HttpResponseRedirect(local_path(request.POST.get("next")))
    chosen = request.POST.get("theme", "")
    path = settings.SESSION_COOKIE_PATH
    if chosen not in THEMES:
        answer.delete_cookie(THEME_COOKIE, path=path, samesite="Lax")
        return answer
    answer.set_cookie(
        THEME_COOKIE,
        chosen,
        max_age=THEME_SECONDS,
        path=path,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
    return answer
