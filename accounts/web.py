"""The decorator `page`, which gives a view the signed-in account and its principal."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec, cast
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import login as open_browser_session
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, resolve_url
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

from accounts import setup
from accounts.models import Account, Project
from accounts.queries import project_named, project_of, project_view, scopes_in
from core.errors import PermissionDeniedError
from core.principal import ALL_SCOPES, Actor, Principal

P = ParamSpec("P")


class PageRequest(HttpRequest):
    """The request of views with `page`. `account` is None if AUTH_DISABLED is set and nobody is
    signed in."""

    account: Account | None
    project: Project
    principal: Principal
    htmx: HtmxDetails
    request_id: str


PageView = Callable[Concatenate[PageRequest, P], HttpResponseBase]


def page(view: PageView[P]) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
    """Calls `view` for a signed-in account, and sends everybody else to set-up or sign-in.

    Put `@require_safe` or `@require_POST` above it. PermissionDeniedError for an account that is a
    member of no project.
    """

    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        if settings.SETUP_ROUTE and not settings.AUTH_DISABLED and not setup.is_complete():
            return redirect_browser(request, resolve_url(settings.SETUP_ROUTE))
        account = find_signed_in(request)
        if account is None and not settings.AUTH_DISABLED:
            return redirect_browser(request, sign_in_url(request))
        return view(identify(request, account), *args, **kwargs)

    # Not as a decorator, because its result type does not allow another request class.
    update_wrapper(guarded, view)
    return guarded


def find_signed_in(request: HttpRequest) -> Account | None:
    """The account of the request's session; None if the session has ended, such as by a new
    password, a new role or a deactivation."""
    user = request.user
    return user if isinstance(user, Account) else None


def start_session(request: HttpRequest, account: Account) -> None:
    """Signs the account in, in this browser: with a new session key and a new form token."""
    Session.objects.filter(expire_date__lt=timezone.now()).delete()
    open_browser_session(request, account, backend=settings.AUTHENTICATION_BACKENDS[0])


def local_path(path: str | None) -> str:
    """`path` if it is a path of this server, else the overview."""
    # No host is allowed, so a URL that names any host fails, however it is written.
    safe = url_has_allowed_host_and_scheme(path or "", allowed_hosts=None)
    if path and path.startswith("/") and safe:
        return path
    return resolve_url(settings.LOGIN_REDIRECT_URL)


def identify(request: HttpRequest, account: Account | None) -> PageRequest:
    """Adds account and principal to the request; PermissionDeniedError for a member of no
    project."""
    page_request = cast(PageRequest, request)
    page_request.account = account
    page_request.principal = _principal(page_request)
    page_request.auth_type = page_request.principal.via  # type: ignore[attr-defined]  # for the request log
    return page_request


def _principal(request: PageRequest) -> Principal:
    account = request.account
    project = project_of(account) if account else project_named("")
    if project is None:
        raise PermissionDeniedError(
            "Your account is a member of no project. Ask an administrator to add you to one."
        )
    request.project = project
    return Principal(
        project=project_view(project),
        scopes=scopes_in(account, project.id) if account else ALL_SCOPES,
        via="session" if account else "auth_disabled",
        account_id=account.id if account else None,
        is_owner=account.is_owner if account else True,
        request_id=str(getattr(request, "request_id", "")),
        client=request.headers.get("User-Agent", "")[:200],
    )


def visitor(request: HttpRequest) -> Actor:
    """The actor of a request from somebody who has not signed in."""
    return Actor(
        client=request.headers.get("User-Agent", "")[:200],
        request_id=str(getattr(request, "request_id", "")),
    )


def sign_in_url(request: HttpRequest) -> str:
    """The URL of the sign-in page, which leads back to the requested page."""
    url = resolve_url(settings.LOGIN_URL)
    if request.method != "GET" or request.headers.get("HX-Request") == "true":
        return url
    return f"{url}?{urlencode({'next': request.get_full_path()}, safe='/')}"


def redirect_browser(request: HttpRequest, url: str) -> HttpResponse:
    """Sends the browser to another page."""
    # htmx would otherwise insert the whole page into a part of this one.
    if request.headers.get("HX-Request") == "true":
        return HttpResponseClientRedirect(url)
    return redirect(url)
