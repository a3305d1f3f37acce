"""One request to /mcp and its answer: the headers that all answers have, and how one ends early."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.utils import timezone

from core.http import bodies, finished
from core.http.bodies import Body
from core.http.finished import FinishedRequest
from core.http.middleware import STANDING_HEADERS, came_over_tls, client_address
from core.http.threads import Receive
from core.http.wsgi_environ import build_environ
from core.rest import json
from mem0dash.challenges import Answer
from memories.mcp.caller import Caller
from memories.mcp.tools import TOOLS

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROUTE: Final = "/mcp"
_STREAM: Final = b"text/event-stream"
_STANDING: Final = [(k.lower().encode(), v.encode()) for k, v in STANDING_HEADERS.items()]
_HSTS: Final = f"max-age={settings.SECURE_HSTS_SECONDS}".encode()
# What browsers may send, and what pages may read of an answer.
_SENT: Final = (
    "Authorization, Content-Type, Accept, Last-Event-ID, Mcp-Method, Mcp-Name, "
    "Mcp-Protocol-Version, Mcp-Session-Id, X-API-Key, X-Project"
)
_READ: Final = "WWW-Authenticate, Mcp-Session-Id, Retry-After, X-Request-ID"
_METHODS: Final = frozenset(
    {
        *("initialize", "ping", "server/discover", "completion/complete"),
        *("tools/list", "tools/call", "prompts/list", "prompts/get"),
        *("resources/list", "resources/read", "resources/templates/list"),
        *("notifications/initialized", "notifications/cancelled", "notifications/progress"),
    }
)


class Exchange:
    """A request and what has been answered so far. `request` is the head alone, as Django has it;
    `body` what was read, `message` its JSON; `caller` is None until somebody is identified."""

    def __init__(self, scope: MutableMapping[str, Any], send: Send) -> None:
        self.scope = scope
        self.headers = bodies.headers_by_name(scope)
        self.request = WSGIRequest(build_environ(scope, b""))
        self.id = finished.id_of(self.request)
        self.request.request_id = self.id  # type: ignore[attr-defined]  # read by authentication
        if came_over_tls(self.request):
            self.request.META["wsgi.url_scheme"] = "https"
        self.body = Body()
        self.message: Any = None
        self.caller: Caller | None = None
        # Set where the answer ends here: what the SDK still sends is dropped.
        self.is_cut = False
        self.is_over = False
        # Whether the client has hung up before the end.
        self.is_gone = False
        self._send = send
        self._origin = ""
        self._status = 0
        self._streams = False
        self._started = time.perf_counter()

    # --- Origins ---------------------------------------------------------------------------------
    def allow_origin(self) -> bool:
        """Whether the page that calls, if it is one, may: one of this server, of DASHBOARD_URL, or
        of MCP_ALLOWED_ORIGINS. From now on it may read the answer."""
        origin = self.request.headers.get("Origin", "")
        if not origin:
            return True
        if origin.lower() in settings.MCP_ALLOWED_ORIGINS or self._is_own(origin):
            self._origin = origin
            return True
        return False

    def _is_own(self, origin: str) -> bool:
        try:
            parts = urlsplit(origin.lower())
        except ValueError:
            return False
        host = self.request.META.get("HTTP_HOST", "").lower()
        return parts.scheme in {"http", "https"} and bool(host) and parts.netloc == host

    def preflight(self) -> dict[str, str]:
        """The headers for a browser that asks first."""
        return {
            "Access-Control-Allow-Methods": "POST, OPTIONS",
            "Access-Control-Allow-Headers": _SENT,
            "Access-Control-Max-Age": "600",
        }

    # --- The request -----------------------------------------------------------------------------
    def replaying(self, receive: Receive) -> Receive:
        """`receive` for who reads the body once more; then it tells of a client that hangs up."""
        whole = [{"type": "http.request", "body": self.body.data, "more_body": False}]
        self.body.data = b""

        async def replay() -> MutableMapping[str, Any]:
            if whole:
                return whole.pop()
            message = await receive()
            self.is_gone = self.is_gone or message["type"] == "http.disconnect"
            return message

        return replay

    # --- The answer ------------------------------------------------------------------------------
    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Passes on what the SDK sends, with the headers that every answer has."""
        if not self.is_cut:
            await self._pass_on(message)

    async def _pass_on(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message["headers"], *self._always(dict(message["headers"]))]
            self._streams = dict(headers).get(b"content-type", b"").startswith(_STREAM)
            message = {**message, "headers": headers}
        elif not message.get("more_body", False):
            self.is_over = True
        await self._send(message)

    def _always(self, there: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        found = [(b"x-request-id", self.id.encode()), *_STANDING]
        if settings.SECURE_HSTS_SECONDS and self.request.is_secure():
            found.append((b"strict-transport-security", _HSTS))
        if b"cache-control" not in there:
            found.append((b"cache-control", b"no-store"))
        if self._origin:
            found += [
                (b"access-control-allow-origin", self._origin.encode("latin-1")),
                (b"access-control-expose-headers", _READ.encode()),
                (b"vary", b"Origin"),
            ]
        return found

    async def answer(self, answer: Answer) -> None:
        """Sends an answer of our own."""
        body = answer.encoded()
        headers = {"Content-Length": str(len(body)), **answer.headers}
        if body:
            headers["Content-Type"] = "application/json"
        if b"expect" in self.headers and not self.body.data:
            # The next bytes could be this body or the next request: nobody can tell.
            headers["Connection"] = "close"
        encoded = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
        await self._pass_on(
            {"type": "http.response.start", "status": answer.status, "headers": encoded}
        )
        await self._pass_on({"type": "http.response.body", "body": body})

    async def end(self, answer: Answer) -> None:
        """Ends the answer here: with this one, or, where a stream has begun, with an error in
        it."""
        self.is_cut = True
        if self.is_over:
            return
        if not self._status:
            await self.answer(answer)
            return
        last = b""
        if self._streams and isinstance(self.message, dict) and "id" in self.message:
            sentence = (answer.body or {}).get("error_description", "")
            error = {"code": -32000, "message": sentence}
            told = {"jsonrpc": "2.0", "id": self.message["id"], "error": error}
            last = b"event: message\r\ndata: " + json.dumps(told) + b"\r\n\r\n"
        await self._pass_on({"type": "http.response.body", "body": last})

    # --- Afterwards ------------------------------------------------------------------------------
    def take_note(self) -> None:
        """Tells log and metrics: a tool's call under its name, with the status that REST would
        answer."""
        # 499 is nginx's word for a client that has hung up.
        status = self._status or 499
        if self.caller is not None and status == 200:
            status = self.caller.status
        handled = FinishedRequest(
            at=timezone.now(),
            method=self.request.method or "",
            path=f"{ROUTE} {self._operation()}".rstrip(),
            status=status,
            ms=round((time.perf_counter() - self._started) * 1000, 2),
            request_id=self.id,
            auth_type=str(getattr(self.request, "auth_type", "none")),
            principal=self.caller.principal if self.caller else None,
            route=ROUTE,
            address=client_address(self.request),
        )
        finished.take_note(handled)

    def _operation(self) -> str:
        """What was called: the tool, or the protocol's method; "" for what is neither."""
        if not isinstance(self.message, dict):
            return ""
        method, params = self.message.get("method"), self.message.get("params")
        if method == "tools/call" and isinstance(params, dict) and params.get("name") in TOOLS:
            return str(params["name"])
        return method if isinstance(method, str) and method in _METHODS else ""
