"""What every request passes: an id, security headers, the access log, and the host check."""

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.http.response import HttpResponseBase

GetResponse = Callable[[HttpRequest], HttpResponseBase]

access_log = logging.getLogger("mem0dash.access")
_INBOUND_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"(?P<name>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")

# Set in the WSGI environment by the dispatcher.
TOO_LARGE = "mem0dash.too_large"

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


class RequestMiddleware:
    """Gives the request an id and the response its headers, and writes one log line for both."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        started = time.perf_counter()
        inbound = request.headers.get("X-Request-ID", "")
        request_id = inbound if _INBOUND_ID.fullmatch(inbound) else secrets.token_hex(4)
        request.request_id = request_id  # type: ignore[attr-defined]  # read by authentication
        response = self.get_response(request)
        if response.status_code == 405 and isinstance(response, HttpResponseNotAllowed):
            response.content = b'{"detail": "Method Not Allowed"}'
            response.headers["Content-Type"] = "application/json"
        response.headers["X-Request-ID"] = request_id
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers.setdefault("X-Frame-Options", "DENY")
        if isinstance(response, HttpResponse):
            response.headers.setdefault("Content-Length", str(len(response.content)))
        principal = getattr(request, "principal", None)
        access_log.info(
            "request",
            extra={
                "request_id": request_id,
                "method": request.method,
                "path": request.path,
                "status": response.status_code,
                "ms": round((time.perf_counter() - started) * 1000, 2),
                "address": client_address(request),
                "account": str(principal.account_id or "") if principal else "",
                "key": principal.key_prefix if principal else "",
                "project": principal.project.slug if principal else "",
            },
        )
        return response


class BodyLimitMiddleware:
    """Answers 413 where the dispatcher gave up reading the body."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.META.get(TOO_LARGE):
            return self.get_response(request)
        most = settings.MAX_BODY_BYTES // 1024 // 1024
        detail = f"The request body is larger than {most} MiB."
        # What is left of the body is not read, so the connection cannot be used again.
        return JsonResponse({"detail": detail}, status=413, headers={"Connection": "close"})


class HostMiddleware:
    """Refuses a Host header that is neither loopback, an IP literal, PUBLIC_URL's nor allowed.

    An address in digits cannot be rebound to another machine, so it is safe without being listed.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.named = {name.lower() for name in settings.NAMED_HOSTS}

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        host = request.META.get("HTTP_HOST", "")
        if host and not self.accepts(host):
            return JsonResponse(
                {"detail": "This host name is not allowed; add it to ALLOWED_HOSTS."}, status=400
            )
        return self.get_response(request)

    def accepts(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].strip("[]").lower()
        if name == "localhost" or name.endswith(".localhost") or name in self.named:
            return True
        if any(host.startswith(".") and name.endswith(host) for host in self.named):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


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


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return JsonResponse({"detail": "Not Found"}, status=404)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return JsonResponse({"detail": "Bad Request"}, status=400)


def server_error(request: HttpRequest) -> HttpResponse:
    request_id = getattr(request, "request_id", "")
    body = {"detail": "Internal server error.", "code": "internal_error", "request_id": request_id}
    return JsonResponse(body, status=500)
