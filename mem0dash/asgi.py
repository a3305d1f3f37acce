"""The dispatcher: Django's WSGI application in fixed pools of threads, started with its runtime.

Django's own ASGI handler gives every request of a sync view a fresh thread, and so a fresh database
connection; with the pools, connections last. A request takes one hop into a thread and one back:
middleware that hands over headers and every piece of the body one by one costs three times the CPU
of this for a small answer.

The mark on the view (core.http.waiting) chooses the pool. So the address is resolved here, once,
and Django gets the result with the request.
"""

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mem0dash.settings")

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import Error as AnyDatabaseError
from django.db import close_old_connections, connection
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import Resolver404, ResolverMatch, get_resolver

django.setup(set_prefix=False)

# After the set-up, because models need it.
from core import notes  # noqa: E402
from core.http import bodies  # noqa: E402
from core.http.bodies import Body  # noqa: E402
from core.http.middleware import REFUSAL, REQUEST_ID, Refusal  # noqa: E402
from core.http.protocol import is_gone  # noqa: E402
from core.http.threads import (  # noqa: E402
    Receive,
    answering,
    reading,
    streaming,
    threads_for,
    writing,
)
from core.http.waiting import (  # noqa: E402
    IncomingRequest,
    ProviderWait,
    WouldWaitError,
    waits_of,
    without_waiting,
)
from core.http.wsgi_environ import build_environ  # noqa: E402
from jobs.runner import Runner  # noqa: E402
from mem0dash import connector  # noqa: E402
from memories import runtime  # noqa: E402
from memories.adding import claims  # noqa: E402
from memories.background.upkeep import Upkeep  # noqa: E402
from memories.providers.waits import really  # noqa: E402

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Coroutine[Any, Any, None]]

# The name of the resolved address in the WSGI environment.
_MATCH: Final = "mem0dash.match"
# Files up to this size are sent whole, larger ones in pieces of this size.
_PIECE: Final = 64 * 1024


class Handler(WSGIHandler):
    """Django's handler, with an address that is resolved already."""

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        match: ResolverMatch | None = request.META.get(_MATCH)
        if match is None:
            return super().resolve_request(request)
        request.resolver_match = match
        return match


django_application = Handler()
agents = connector.Connector()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application that uvicorn serves."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http":
        scope = _below_prefix(scope)
        if scope["path"] in connector.PATHS:
            await agents(scope, receive, send)
        else:
            await _http(scope, receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})


async def _lifespan(receive: Receive, send: Send) -> None:
    """`serve` has installed the runtime; this starts its thread and ends it with the server."""
    await receive()
    notes.start()
    upkeep = Upkeep(runtime.get_runtime())
    upkeep.start()
    runner = Runner(on_duty=upkeep.is_on_duty)
    runner.start()
    async with agents.running():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    # In threads: they write to the database, which Django refuses on the event loop.
    await asyncio.to_thread(_give_up)
    await asyncio.to_thread(runner.stop)
    await asyncio.to_thread(upkeep.stop)
    await asyncio.to_thread(notes.stop)
    await send({"type": "lifespan.shutdown.complete"})


def _give_up() -> None:
    """Ends adds that are still running when the time for requests is over; their inputs are
    kept."""
    try:
        if count := claims.end_all():
            logger.warning("adds were cut off, their inputs are kept", extra={"adds": count})
    except AnyDatabaseError:
        logger.exception("adds that were cut off are ended by the next start")
    finally:
        connection.close()


@dataclass(slots=True)
class _Request:
    """A request on its way through the dispatcher. `thread` works on it, once there is one."""

    scope: Scope
    headers: Mapping[bytes, bytes]
    match: ResolverMatch | None
    body: Body
    has_begun: bool = False
    thread: int = 0
    environ: dict[str, Any] | None = None


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    request = _Request(scope, bodies.headers_by_name(scope), _match(scope["path"]), Body())

    async def sending(message: Message) -> None:
        request.has_begun = True
        await send(message)

    try:
        await _answer(request, receive, sending)
    except asyncio.CancelledError:
        # The server stops, and the time for this request is over.
        if not request.has_begun:
            await _stopping(request, send)
    finally:
        bodies.release(request.body)


async def _answer(request: _Request, receive: Receive, send: Send) -> None:
    """Reads the whole body before it takes a thread, so that a slow client holds none. Without a
    credential where one is needed, it reads nothing."""
    is_read = not bodies.has_body(request.headers)
    may_wait = request.match is not None
    if not is_read and _takes_body(request):
        request.body = await bodies.read(
            request.headers, receive, has_credential=_has_credential(request)
        )
        is_read = request.body.refusal is None
        may_wait = is_read
    elif not is_read:
        may_wait = False
    if request.body.gone:
        return
    waits = _waits(request) if may_wait else ProviderWait.NOBODY
    request.environ = _environ(request)
    answer = await _served(request, waits, receive if is_read else None)
    if answer is None:
        return
    if not is_read and b"expect" in request.headers:
        # The next bytes could be this body or the next request: nobody can tell.
        answer.messages[0]["headers"].append((b"connection", b"close"))
    for message in answer.messages:
        await send(message)
    if answer.file is not None:
        await _send_file(answer.file, send)
    elif answer.pieces is not None:
        pieces, loop = answer.pieces, asyncio.get_running_loop()
        await streaming.run(lambda: _stream(pieces, request, send, loop))


async def _served(
    request: _Request, waits: ProviderWait, receive: Receive | None
) -> "_Answer | None":
    """What a thread makes of the request; None where the client has hung up before. Where too many
    wait for a provider already it is refused."""
    assert request.environ is not None  # noqa: S101  (made before a thread is asked for)
    threads = threads_for(waits, request.scope["method"])
    if waits is ProviderWait.LLM and threads.are_taken:
        # It may be an add that is stored already, or has nothing in it for a language model.
        answer = await writing.run(lambda: _respond_at_once(request), receive)
        if answer is not _WOULD_WAIT:
            return answer
    if threads.is_full:
        request.environ[REFUSAL], threads = _TOO_MANY, reading
    return await threads.run(lambda: _respond(request), receive)


@lru_cache(maxsize=256)
def _match(path: str) -> ResolverMatch | None:
    """The resolved address; None if there is no such route. Clients ask for few addresses again and
    again, and to resolve one takes a fifth of a millisecond."""
    try:
        return get_resolver().resolve(path or "/")
    except Resolver404:
        return None


def _takes_body(request: _Request) -> bool:
    """Whether a view will read the body: not without a route, nor without a needed credential."""
    if request.match is None:
        return False
    class_ = getattr(request.match.func, "cls", None)
    needs_credential = bool(class_ and class_.permission_classes)
    return not needs_credential or _has_credential(request)


def _has_credential(request: _Request) -> bool:
    """Whether the request has a credential, valid or not."""
    headers = request.headers
    if settings.AUTH_DISABLED or b"authorization" in headers or b"x-api-key" in headers:
        return True
    cookies = headers.get(b"cookie", b"")
    return settings.SESSION_COOKIE_NAME.encode() + b"=" in cookies


def _waits(request: _Request) -> ProviderWait:
    """Whom the request may wait for."""
    if request.match is None:
        return ProviderWait.NOBODY
    method = request.scope["method"]
    asked = IncomingRequest(method, request.scope["query_string"], request.body.data)
    return really(waits_of(request.match, method, asked))


_TOO_MANY: Final = Refusal(
    503,
    "Too many requests wait for a model provider. Nothing of this one is stored; try again.",
    code="busy",
    retry_after=10,
)


def _environ(request: _Request) -> dict[str, Any]:
    """The request as WSGI knows it, with what is known about it here."""
    environ = build_environ(request.scope, request.body.data)
    environ[_MATCH] = request.match
    environ[REFUSAL] = request.body.refusal
    request.body.data = b""
    return environ


@dataclass(slots=True)
class _Answer:
    """A thread's answer to a request: all of it, or its beginning and an iterator over the rest."""

    messages: list[Message]
    file: HttpResponseBase | None = None
    pieces: HttpResponseBase | None = None


# What is no answer: a provider would have been asked.
_WOULD_WAIT: Final = _Answer([])


def _respond_at_once(request: _Request) -> _Answer | None:
    """As `_respond`, where no provider has to be asked for the answer; else _WOULD_WAIT, and
    nothing has been done."""
    assert request.environ is not None  # noqa: S101  (made before the thread was asked for)
    untouched = dict(request.environ)
    try:
        with without_waiting():
            return _respond(request)
    except WouldWaitError:
        # Where Django has ended no request, it looks after no connection.
        close_old_connections()
        untouched["wsgi.input"].seek(0)
        request.environ, request.thread = untouched, 0
        return _WOULD_WAIT


def _respond(request: _Request) -> _Answer | None:
    """Runs Django in a thread; None if the client has hung up."""
    if is_gone(request.scope):
        return None
    assert request.environ is not None  # noqa: S101  (made before the thread was asked for)
    start: Message = {"type": "http.response.start"}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        start["status"] = int(status[:3])
        start["headers"] = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers]

    request.thread = threading.get_ident()
    answering.add(request.thread)
    response: Any = None
    ends_here = True
    try:
        # The ignore: a plain function is all that WSGI asks for.
        response = django_application(request.environ, start_response)  # type: ignore[arg-type]
        if response.streaming and request.scope["method"] != "HEAD":
            is_file = getattr(response, "file_to_stream", None) is not None
            if not is_file or int(response.headers.get("Content-Length", _PIECE + 1)) > _PIECE:
                ends_here = False
                return _Answer([start], *((response, None) if is_file else (None, response)))
        whole = b"" if request.scope["method"] == "HEAD" else b"".join(response)
        return _Answer([start, {"type": "http.response.body", "body": whole}])
    finally:
        if ends_here and response is not None:
            response.close()
        answering.discard(request.thread)


async def _send_file(response: Any, send: Send) -> None:
    """Sends a file piece by piece, as fast as somebody reads it: between two pieces it holds no
    thread."""
    file = response.file_to_stream
    try:
        while piece := await streaming.run(lambda: file.read(_PIECE)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        response.close()


def _stream(response: Any, request: _Request, send: Send, loop: asyncio.AbstractEventLoop) -> None:
    """Sends an answer that is made while it is sent, in one thread, for its queries' sake."""

    def put(message: Message) -> None:
        asyncio.run_coroutine_threadsafe(send(message), loop).result()

    thread = threading.get_ident()
    answering.add(thread)
    try:
        for chunk in response:
            if is_gone(request.scope):
                return
            put({"type": "http.response.body", "body": chunk, "more_body": True})
        put({"type": "http.response.body", "body": b""})
    finally:
        response.close()
        answering.discard(thread)


async def _stopping(request: _Request, send: Send) -> None:
    """Says that the server stops, and what became of an add's input."""
    kept = bool(request.thread) and claims.is_working(request.thread)
    told = (
        "The server is stopping; the input is kept, and tried again after the start."
        if kept
        else "The server is stopping. Try again shortly."
    )
    refusal = Refusal(503, told, code="stopping", retry_after=10, close=True)
    request_id = (request.environ or {}).get(REQUEST_ID, "")
    body = json.dumps(refusal.body(request.scope["path"], request_id)).encode()
    headers = {**refusal.headers(), "Content-Type": "application/json", "X-Request-ID": request_id}
    headers["Content-Length"] = str(len(body))
    encoded = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": 503, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _below_prefix(scope: Scope) -> Scope:
    """The scope without PUBLIC_URL's path, which some proxies remove and others leave."""
    prefix = settings.FORCE_SCRIPT_NAME
    if not prefix or not f"{scope['path']}/".startswith(f"{prefix}/"):
        return scope
    return {**scope, "path": scope["path"][len(prefix) :] or "/"}
