"""The base of all pages: their paths, middleware and errors."""

import logging
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers
from django_htmx.middleware import HtmxMiddleware

from core.database.datastore import explain, is_trouble
from core.database.sqlite3.turns import at_most
from core.errors import Mem0dashError

logger = logging.getLogger(__name__)

THEME_COOKIE: Final = "mem0dash_theme"
THEMES: Final = ("light", "dark")
TITLES: Final = {
    400: "That request cannot be read",
    403: "You may not do that",
    404: "There is no such page",
    405: "That is not how this page works",
    409: "It has changed meanwhile",
    410: "That is over",
    413: "That is too much at once",
    429: "Too many attempts",
    500: "Something went wrong here",
    502: "A part of the server does not answer",
    503: "That is not possible just now",
    507: "The server cannot store anything now",
}
# Seconds that a page waits to store its session.
_READERS_PATIENCE: Final = 0.1
_OWN_TEMPLATES: Final = frozenset({400, 403, 404, 500})


def is_page(request: HttpRequest) -> bool:
    """Whether the path is a page's. All other paths belong to the API, which uses no cookies."""
    path = request.path_info
    return any(path == page or path.startswith(f"{page}/") for page in settings.PAGE_PATHS)


def wants_html(request: HttpRequest) -> bool:
    """Whether a person will read an answer that no view made, such as a 404."""
    preferred = request.get_preferred_type(["application/json", "text/html"])
    return is_page(request) or preferred == "text/html"


def theme_of(request: HttpRequest) -> str:
    """The chosen theme, "" to follow the system."""
    theme = request.COOKIES.get(THEME_COOKIE, "")
    return theme if theme in THEMES else ""


def error_page(
    request: HttpRequest, status: int, message: str = "", *, template: str = "", **more: Any
) -> HttpResponse:
    """The page that says what went wrong; for htmx only the sentence.

    It needs no database, session or context processor, because any of them may have failed.
    """
    context = {
        "theme": theme_of(request),
        "request_id": getattr(request, "request_id", ""),
        "status": status,
        "title": TITLES.get(status, TITLES[500 if status >= 500 else 400]),
        "message": message,
        "again": request.get_full_path() if request.method == "GET" else "",
        # The same page without its filters.
        "clear": request.path.removesuffix("/export") if _is_filtered(request) else "",
        **more,
    }
    if request.headers.get("HX-Request") == "true":
        template = "_error.html"
    elif not template:
        template = f"{status}.html" if status in _OWN_TEMPLATES else "error.html"
    response = HttpResponse(render_to_string(template, context), status=status)
    response.headers["Cache-Control"] = "no-store"
    patch_vary_headers(response, ["Accept", "HX-Request"])
    return response


def _is_filtered(request: HttpRequest) -> bool:
    return request.method == "GET" and bool(request.META.get("QUERY_STRING"))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """settings.CSRF_FAILURE_VIEW; Django writes the reason to the log."""
    other = _other_origin(request, reason)
    # A secure cookie is never sent over plain HTTP.
    needs_tls = not other and settings.CSRF_COOKIE_SECURE and not request.is_secure()
    here = settings.CSRF_TRUSTED_ORIGINS or [f"{request.scheme}://{request.get_host()}"]
    message = ""
    if other:
        message = f"This form came from {other}, and this server is {here[0]}. Nothing was changed."
    return error_page(
        request,
        403,
        message,
        template="csrf.html",
        public_url=settings.PUBLIC_URL if needs_tls else "",
        other=other,
        here=here[0],
        has_public_url=bool(settings.PUBLIC_URL),
    )


def _other_origin(request: HttpRequest, reason: str) -> str:
    """The foreign origin that a form was sent from, if that is the reason; else ""."""
    if reason.startswith("Origin checking failed"):
        return request.headers.get("Origin", "")[:200]
    if reason.startswith("Referer checking failed") and "does not match" in reason:
        try:
            parts = urlsplit(request.headers.get("Referer", ""))
        except ValueError:
            return ""
        return f"{parts.scheme}://{parts.netloc}"[:200] if parts.netloc else ""
    return ""


class OnPages:
    """Middleware that runs for pages only. A cookie must never open the API."""

    def __call__(self, request: HttpRequest) -> Any:
        # The class that this is mixed into has both.
        passed: Any = self.get_response  # type: ignore[attr-defined]
        whole: Any = super().__call__  # type: ignore[misc]
        return whole(request) if is_page(request) else passed(request)


class PageSession(OnPages, SessionMiddleware):
    """Sessions of pages. A read saves its session only if that is possible at once; a page may then
    show a message twice, but never fails because of it."""

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        try:
            if request.method not in {"GET", "HEAD"}:
                return super().process_response(request, response)
            with at_most(_READERS_PATIENCE):
                return super().process_response(request, response)
        except (OperationalError, InterfaceError, SessionInterrupted) as error:
            trouble = _of_database(error)
            if trouble is None:
                raise  # the session has ended meanwhile
            if request.method in {"GET", "HEAD"}:
                cause = str(trouble).strip()[:300]
                logger.warning("a session was not saved", extra={"cause": cause})
                return response
            answer = page_for_error(request, trouble)
            assert answer is not None  # noqa: S101  (it handles database errors)
            return answer


def _of_database(error: BaseException | None) -> Exception | None:
    """The database error that caused this one; Django reports each as an ended session."""
    while error is not None and not isinstance(error, OperationalError | InterfaceError):
        error = error.__cause__ or error.__context__
    return error


class PageCsrf(OnPages, CsrfViewMiddleware):
    def process_view(
        self,
        request: HttpRequest,
        callback: Callable[..., HttpResponseBase],
        callback_args: tuple[Any, ...],
        callback_kwargs: dict[str, Any],
    ) -> HttpResponseForbidden | None:
        if not is_page(request):
            return None
        return super().process_view(request, callback, callback_args, callback_kwargs)


class PageAuthentication(OnPages, AuthenticationMiddleware):
    pass


class PageMessages(OnPages, MessageMiddleware):
    pass


class PageHtmx(OnPages, HtmxMiddleware):
    pass


class PageAnswers:
    """Keeps pages out of caches, and renders the errors of services as pages."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if is_page(request):
            # Pages show private memories, so no cache may keep them, not even for the back button.
            response.headers.setdefault("Cache-Control", "no-store")
            patch_vary_headers(response, ["Cookie", "HX-Request"])
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not is_page(request):
            return None
        return page_for_error(request, error)


def page_for_error(request: HttpRequest, error: Exception) -> HttpResponse | None:
    """The page for an error of a service or the database; None for an unexpected error."""
    if is_trouble(error):
        cause = str(error).strip()[:300]
        error = explain(error, "The database does not answer. Try again shortly.")
        logger.error("the database does not answer", extra={"cause": cause, "code": error.code})
    if not isinstance(error, Mem0dashError):
        return None
    answer = error_page(request, error.status, error.message)
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer
