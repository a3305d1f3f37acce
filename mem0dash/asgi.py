"""The dispatcher: Django's WSGI application in a fixed pool of threads, started with its runtime.

Django's own ASGI handler gives every request of a sync view a fresh thread, and so a fresh database
connection; with the pool, connections last. A request takes one hop into a thread and one back:
a2wsgi's own middleware, which hands over headers and every piece of the body one by one, costs
three times the CPU of this for a small answer.
"""

import asyncio
import io
import logging
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mem0dash.settings")

from a2wsgi.wsgi import build_environ
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import Error as AnyDatabaseError
from django.db import connection

django_application = get_wsgi_application()

# After the set-up, which models need.
from jobs.runner import Runner  # noqa: E402
from mem0dash.middleware import TOO_LARGE  # noqa: E402
from memories import ingest, runtime  # noqa: E402
from memories.upkeep import Upkeep  # noqa: E402

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]

pool = ThreadPoolExecutor(settings.THREADS, thread_name_prefix="mem0dash-request")
# Requests that may wait for a provider have threads of their own: however long a provider hangs,
# everything else finds a thread. Those that wait for an LLM keep none from searches, which wait for
# the embedder at most and can do without, nor from what puts another provider in its place.
waiting_pool = ThreadPoolExecutor(settings.WAITING_THREADS, thread_name_prefix="mem0dash-waiting")
asking_pool = ThreadPoolExecutor(settings.THREADS, thread_name_prefix="mem0dash-asking")
# Pages that wait for a provider, or for this very server.
pages_pool = ThreadPoolExecutor(4, thread_name_prefix="mem0dash-page")
# The threads that answer a request just now.
answering: set[int] = set()
_ASKING = re.compile(r"POST /(([\w/]+/)?search/?|configure)")
_WAITING_PAGES = re.compile(r"POST /setup/.*")
_WAITING = re.compile(r"(POST|PUT) /(([\w/]+/)?memories(/.*)?|generate-instructions)")


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application that uvicorn serves."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http":
        await _http(scope, receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})


async def _lifespan(receive: Receive, send: Send) -> None:
    """`serve` has installed the runtime; this starts its thread and ends it with the server."""
    from operations import request_log

    await receive()
    request_log.start()
    upkeep = Upkeep(runtime.current())
    upkeep.start()
    runner = Runner(on_duty=upkeep.is_on_duty)
    runner.start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    # In threads: they write to the database, which Django refuses on the event loop.
    await asyncio.to_thread(_give_up)
    await asyncio.to_thread(runner.stop)
    await asyncio.to_thread(upkeep.stop)
    await asyncio.to_thread(request_log.stop)
    await send({"type": "lifespan.shutdown.complete"})


def _give_up() -> None:
    """Adds that outlast the time which requests are given to end: their inputs are kept."""
    try:
        if count := ingest.end_all():
            logger.warning("adds were cut off, their inputs are kept", extra={"adds": count})
    except AnyDatabaseError:
        logger.exception("adds that were cut off are ended by the next start")
    finally:
        connection.close()


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the whole body before a thread is taken, so that a slow client holds none."""
    scope = _below_prefix(scope)
    body = await _body(scope, receive)
    if body is None:
        return
    # WSGI knows bodies by their length only: a chunked one is given its length here.
    framing = {b"content-length", b"transfer-encoding"}
    headers = [pair for pair in scope["headers"] if pair[0] not in framing]
    length = (b"content-length", str(len(body)).encode())
    scope = {**scope, "headers": [*headers, length]}
    environ: dict[str, Any] = dict(build_environ(scope, io.BytesIO(body)))  # type: ignore[arg-type]
    # The ignore: a2wsgi spells the same types in its own way.
    environ[TOO_LARGE] = body is _LARGE
    loop = asyncio.get_running_loop()
    threads = _pool_for(f"{scope['method']} {scope['path']}")
    for message in await loop.run_in_executor(threads, _respond, environ, send, loop):
        await send(message)


def _below_prefix(scope: Scope) -> Scope:
    """The scope without PUBLIC_URL's path, which some proxies take off and some leave on."""
    prefix = settings.FORCE_SCRIPT_NAME
    if not prefix or not f"{scope['path']}/".startswith(f"{prefix}/"):
        return scope
    return {**scope, "path": scope["path"][len(prefix) :] or "/"}


def _pool_for(call: str) -> ThreadPoolExecutor:
    if _ASKING.fullmatch(call):
        return asking_pool
    if _WAITING_PAGES.fullmatch(call):
        return pages_pool
    return waiting_pool if _WAITING.fullmatch(call) else pool


# Stands for a body that is larger than settings.MAX_BODY_BYTES, which is not read to its end.
_LARGE = bytes(bytearray(b"too large"))


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """The body, _LARGE, or None where the client has gone."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > settings.MAX_BODY_BYTES:
        return _LARGE
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > settings.MAX_BODY_BYTES:
            return _LARGE
        if not message.get("more_body", False):
            return b"".join(chunks)


def _respond(environ: dict[str, Any], send: Send, loop: asyncio.AbstractEventLoop) -> list[Message]:
    """Runs Django in a thread of the pool; the messages that are still to be sent."""
    start: Message = {"type": "http.response.start"}
    thread = threading.get_ident()
    answering.add(thread)

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        start["status"] = int(status[:3])
        start["headers"] = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers]

    def put(message: Message) -> None:
        asyncio.run_coroutine_threadsafe(send(message), loop).result()

    response: Any = None
    try:
        # The ignore: a plain function is all that WSGI asks for.
        response = django_application(environ, start_response)  # type: ignore[arg-type]
        if not response.streaming:
            return [start, {"type": "http.response.body", "body": b"".join(response)}]
        put(start)
        for chunk in response:
            put({"type": "http.response.body", "body": chunk, "more_body": True})
        return [{"type": "http.response.body", "body": b""}]
    finally:
        if response is not None:
            response.close()
        answering.discard(thread)
