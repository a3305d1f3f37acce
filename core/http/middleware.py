"""Middleware for every request: its id, security headers, the logs, the host check, CORS."""

import ipaddress
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings
from django.core.exceptions import SuspiciousOperation, TooManyFieldsSent, TooManyFilesSent
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    JsonResponse,
)
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve
from django.utils import timezone
from django.utils.cache import patch_vary_headers

from core.http import finished
from core.http.finished import FinishedRequest
from core.http.hosts import Hosts, accepted_hosts
from core.pages.answers import error_page, is_page, wants_html

GetResponse = Callable[[HttpRequest], HttpResponseBase]

# <str:memory_id> in the route of a URLconf.
_CONVERTED = re.compile(r"<(?:\w+:)?(\w+)>")
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_-]+(?:\s*,\s*[A-Za-z0-9_-]+)*")

# Set in the WSGI environment by the dispatcher: why no view is to answer, a Refusal.
REFUSAL = "mem0dash.refusal"
# And by RequestMiddleware, for the dispatcher.
REQUEST_ID = "mem0dash.request_id"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

# What Django's own middleware and RequestMiddleware give every answer, for those that pass neither.
STANDING_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": settings.SECURE_REFERRER_POLICY,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """The dispatcher's reason to answer without a view. `code` is for machines, "" for none;
    `retry_after` is in seconds. `close` means that the connection cannot be used again."""

    status: int
    detail: str
    code: str = ""
    retry_after: int | None = None
    close: bool = False

    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        found = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            found["Retry-After"] = str(self.retry_after)
        return found | ({"Connection": "close"} if self.close else {})

    def body(self, path: str, request_id: str) -> dict[str, str]:
        """As the dialect of the path tells it."""
        if not self.code:
            return {"detail": self.detail}
        word = "error" if path.startswith("/api/v1/") else "code"
        return {"detail": self.detail, word: self.code, "request_id": request_id}


class RequestMiddleware:
    """Gives the request an id and the response its headers, and logs how it ended."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        started = time.perf_counter()
        request_id = finished.id_of(request)
        request.request_id = request_id  # type: ignore[attr-defined]  # read by authentication
        request.META[REQUEST_ID] = request_id
        if came_over_tls(request):
            request.META["wsgi.url_scheme"] = "https"
        response = self.get_response(request)
        if response.status_code == 405 and isinstance(response, HttpResponseNotAllowed):
            self._explain(request, response)
        response.headers["X-Request-ID"] = request_id
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers.setdefault("X-Frame-Options", "DENY")
        if isinstance(response, HttpResponse):
            response.headers.setdefault("Content-Length", str(len(response.content)))
        self._log(request, response, round((time.perf_counter() - started) * 1000, 2))
        return response

    def _explain(self, request: HttpRequest, response: HttpResponseNotAllowed) -> None:
        """A body for what Django answers without one; the headers it has by now stay."""
        if not is_page(request):
            response.content = b'{"detail": "Method Not Allowed"}'
            response.headers["Content-Type"] = "application/json"
            return
        page = error_page(request, 405, "Go back to the page before, and try it from there.")
        response.content = page.content
        response.headers["Content-Type"] = page.headers["Content-Type"]

    def _log(self, request: HttpRequest, response: HttpResponseBase, ms: float) -> None:
        handled = FinishedRequest(
            at=timezone.now(),
            method=request.method or "",
            path=request.path_info,
            status=response.status_code,
            ms=ms,
            request_id=str(getattr(request, "request_id", "")),
            auth_type=str(getattr(request, "auth_type", "none")),
            principal=getattr(request, "principal", None),
            route=_route(request),
            address=client_address(request),
        )
        finished.take_note(handled)


def _route(request: HttpRequest) -> str:
    """The template of the request's address, as OpenAPI writes it; "" for an unknown address."""
    match = request.resolver_match
    if match is None:  # answered before any view was looked for
        try:
            match = resolve(request.path_info)
        except Resolver404:
            return ""
    return "/" + _CONVERTED.sub(r"{\1}", match.route)


class RefusalMiddleware:
    """Answers what the dispatcher gives to no view, such as a body that is too large, and what
    Django cannot read: a view would meet that in the middle of its work."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        refusal: Refusal | None = request.META.get(REFUSAL) or _unreadable(request)
        if refusal is None:
            return self.get_response(request)
        if wants_html(request):
            answer = error_page(request, refusal.status, refusal.detail)
        else:
            body = refusal.body(request.path_info, request.META.get(REQUEST_ID, ""))
            answer = JsonResponse(body, status=refusal.status)
        for name, value in refusal.headers().items():
            answer.headers[name] = value
        return answer


def _unreadable(request: HttpRequest) -> Refusal | None:
    """Why the address, or the form of a page, is not read; None where it can be."""
    try:
        if request.META.get("QUERY_STRING"):
            _ = request.GET
        if request.method == "POST" and is_page(request):
            _ = request.POST
    except (TooManyFieldsSent, TooManyFilesSent):
        most = f"{settings.DATA_UPLOAD_MAX_NUMBER_FIELDS:,}"
        return Refusal(400, f"There are too many fields: at most {most} are read.")
    except (SuspiciousOperation, MultiPartParserError):
        return Refusal(400, "This form cannot be read. Load the page again, and send it once more.")
    return None


class HostMiddleware:
    """Refuses a Host header that names neither this machine nor a host of the settings: a page
    elsewhere could have its own name lead here (DNS rebinding)."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.hosts: Hosts = accepted_hosts()

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        host = request.META.get("HTTP_HOST", "")
        if host and not self.hosts.accept(host):
            detail = "This host name is not allowed; add it to ALLOWED_HOSTS."
            return problem(request, detail, 400)
        return self.get_response(request)


class CorsMiddleware:
    """Allows pages of one other origin, DASHBOARD_URL, to call the API, and pages of every origin
    what OPEN_PATHS names."""

    METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if _is_open(request.path_info):
            return self._open(request)
        # Other origins may not read pages, because a cookie opens them.
        allowed = "" if is_page(request) else settings.DASHBOARD_ORIGIN
        origin = request.headers.get("Origin", "")
        asks_first = request.method == "OPTIONS" and (
            "Access-Control-Request-Method" in request.headers
        )
        if not allowed or origin.lower() != allowed:
            response = (
                self._refusal(request, origin)
                if origin and asks_first and not is_page(request)
                else self.get_response(request)
            )
        elif asks_first:
            response = self._preflight(request)
        else:
            response = self._shared(self.get_response(request), allowed)
        if allowed:
            patch_vary_headers(response, ["Origin"])
        return response

    def _open(self, request: HttpRequest) -> HttpResponseBase:
        """For everybody, and therefore without credentials of the browser's."""
        if request.method == "OPTIONS":
            response: HttpResponseBase = HttpResponse(status=204)
            response["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            wanted = request.headers.get("Access-Control-Request-Headers", "")
            if _HEADER_NAMES.fullmatch(wanted):
                response["Access-Control-Allow-Headers"] = wanted
            response["Access-Control-Max-Age"] = "600"
        else:
            response = self.get_response(request)
        response["Access-Control-Allow-Origin"] = "*"
        return response

    def _refusal(self, request: HttpRequest, origin: str) -> HttpResponseBase:
        """What the browser keeps from the page, and shows to who looks for the reason."""
        detail = (
            f"Pages of {origin[:200]} may not call this API from a browser. "
            "DASHBOARD_URL names the one other origin that may."
        )
        return JsonResponse({"detail": detail}, status=403)

    def _preflight(self, request: HttpRequest) -> HttpResponseBase:
        response = HttpResponse("OK", content_type="text/plain; charset=utf-8")
        response["Access-Control-Allow-Methods"] = self.METHODS
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        if _HEADER_NAMES.fullmatch(wanted):
            response["Access-Control-Allow-Headers"] = wanted
        response["Access-Control-Max-Age"] = "600"
        return self._shared(response, settings.DASHBOARD_ORIGIN)

    def _shared(self, response: HttpResponseBase, origin: str) -> HttpResponseBase:
        response["Access-Control-Allow-Origin"] = origin
        response["Access-Control-Allow-Credentials"] = "true"
        response["Access-Control-Expose-Headers"] = "X-Request-ID"
        return response


def _is_open(path: str) -> bool:
    return any(path == open_ or path.startswith(f"{open_}/") for open_ in settings.OPEN_PATHS)


def client_address(request: HttpRequest) -> str:
    """The caller's address; forwarded headers count only when a trusted proxy sent them.

    The list in X-Forwarded-For is read from the right: the first address that is not itself a
    trusted proxy is the caller, whatever a client wrote further left.
    """
    peer = request.META.get("REMOTE_ADDR", "")
    if not settings.TRUSTED_PROXIES or not _is_trusted(peer):
        return str(peer)
    hops = [h.strip() for h in request.headers.get("X-Forwarded-For", "").split(",") if h.strip()]
    for hop in reversed(hops):
        if not _is_trusted(hop):
            return hop
    return str(hops[0] if hops else peer)


def _is_trusted(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in settings.TRUSTED_PROXIES)


def came_over_tls(request: HttpRequest) -> bool:
    """Whether a trusted proxy says that it ended TLS for this request."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").strip().lower()
    return forwarded == "https" and _is_trusted(request.META.get("REMOTE_ADDR", ""))


def problem(request: HttpRequest, detail: str, status: int) -> HttpResponse:
    """What is wrong with a request that no view has seen: a page for people, JSON for clients."""
    if wants_html(request):
        return error_page(request, status, detail)
    return JsonResponse({"detail": detail}, status=status)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if without_slash := _route_without_slash(request):
        return without_slash
    if wants_html(request):
        return error_page(request, 404)
    return JsonResponse({"detail": "Not Found"}, status=404)


def _route_without_slash(request: HttpRequest) -> HttpResponse | None:
    """Sends a client that ends an address of the API with a slash to the route, with method, body
    and query (307); None where there is no such route.

    A path alone, for whatever stands before this server has a scheme and a host of its own.
    """
    path = request.path_info
    if not path.endswith("/") or request.resolver_match is not None or is_page(request):
        return None
    try:
        resolve(path.removesuffix("/"))
    except Resolver404:
        return None
    to, _, query = request.get_full_path().partition("?")
    response = HttpResponseRedirect(to.removesuffix("/") + (f"?{query}" if query else ""))
    response.status_code = 307
    return response


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if wants_html(request):
        return error_page(request, 403)
    return JsonResponse({"detail": "Forbidden"}, status=403)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if wants_html(request):
        return error_page(request, 400)
    return JsonResponse({"detail": "Bad Request"}, status=400)


def server_error(request: HttpRequest) -> HttpResponse:
    request_id = getattr(request, "request_id", "")
    if wants_html(request):
        return error_page(request, 500)
    body = {"detail": "Internal server error.", "code": "internal_error", "request_id": request_id}
    return JsonResponse(body, status=500)
