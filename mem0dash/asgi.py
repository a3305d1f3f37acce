"""The dispatcher: Django's WSGI application in a fixed pool of threads, started with its runtime.

Django's own ASGI handler gives every request of a sync view a fresh thread, and so a fresh database
connection; with the pool, connections last.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mem0dash.settings")

import orjson
from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.core.wsgi import get_wsgi_application

django_application = get_wsgi_application()

from memories import runtime  # noqa: E402  (models need the application to be set up)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# The ignore: Django answers its own response class, which is an iterable of bytes.
wsgi = WSGIMiddleware(django_application, workers=settings.THREADS)  # type: ignore[arg-type]


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
    await receive()
    runtime.current().start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    # In a thread: it writes to the database, which Django refuses on the event loop.
    await asyncio.to_thread(runtime.current().stop)
    await send({"type": "lifespan.shutdown.complete"})


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the whole body before a thread is taken, so that a slow client holds none.

    WSGI knows bodies by their length only, so a chunked one is given its length here.
    """
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > settings.MAX_BODY_BYTES:
        await _too_large(send)
        return
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > settings.MAX_BODY_BYTES:
            await _too_large(send)
            return
    if b"transfer-encoding" in headers:
        kept = [pair for pair in scope["headers"] if pair[0] != b"transfer-encoding"]
        scope = {**scope, "headers": [*kept, (b"content-length", str(size).encode())]}
    body = b"".join(chunks)
    sent = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    await wsgi(scope, replay, send)  # type: ignore[arg-type]  # a2wsgi has its own, equal types


async def _too_large(send: Send) -> None:
    detail = f"The request body is larger than {settings.MAX_BODY_BYTES // 1024 // 1024} MiB."
    body = orjson.dumps({"detail": detail})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
