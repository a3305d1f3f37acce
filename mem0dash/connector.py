"""/mcp: the MCP server behind this server's own guard, credentials, limits and logs.

The SDK's transport is mounted beside Django, because both eras of the protocol stream. All that
stands before it is here: which hosts and origins may call, who calls and with which scopes, how
much a call may bring, and that an open call ends with its credential. Nothing is kept between two
calls.

Specifications: modelcontextprotocol.io, "Transports" (Streamable HTTP) and "Authorization"; RFC
6750 section 3 and RFC 9728 section 5.1 (challenges).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils.module_loading import import_string
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from sse_starlette.sse import AppStatus

from accounts.throttle import RateLimitedError
from apikeys import failures
from core.errors import EngineError, InvalidCredentialError, Mem0dashError
from core.http import bodies, credentials
from core.http.hosts import accepted_hosts
from core.http.middleware import client_address
from core.http.threads import Receive, looked_after, reading, writing
from core.rest import json
from core.rest.errors import DATABASE_DOWN, database_trouble, log_failure
from mem0dash import challenges, identification
from mem0dash.challenges import Answer
from mem0dash.exchange import Exchange, Send
from memories.adding import claims
from memories.mcp.caller import Caller, current
from memories.mcp.tools import scope_of

logger = logging.getLogger(__name__)

PATHS: Final = frozenset({"/mcp", "/mcp/"})
BODY_BYTES: Final = 1024 * 1024
# How often an open call asks whether its credential still holds, in seconds.
RECHECK_SECONDS: Final = 3.0
# The name under which failed authentications are limited (apikeys.failures).
SURFACE: Final = "failures-mcp"

STOPPING: Final = "The server is stopping. Try again shortly."
KEPT: Final = "The server is stopping; the input is kept, and tried again after the start."
ENDED: Final = "The credential of this call does not hold any more."

_NOT_THERE: Final = challenges.problem(503, "unavailable", STOPPING, Retry_After="10")

# A stop gives calls the time that it gives every request: the SDK's streams would end at once.
AppStatus.enable_automatic_graceful_drain = False


class Connector:
    """The ASGI application of the paths in PATHS."""

    def __init__(self) -> None:
        self._app: StreamableHTTPASGIApp | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers calls for as long as this lasts; before and after, they get 503."""
        manager = StreamableHTTPSessionManager(
            import_string(settings.MCP_SERVER)(), stateless=True, max_request_body_size=BODY_BYTES
        )
        async with manager.run():
            self._app = StreamableHTTPASGIApp(manager)
            try:
                yield
            finally:
                self._app = None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, send)
        try:
            answer = await self._answer(exchange, receive)
            if answer is not None:
                await exchange.answer(answer)
        except Exception:
            logger.exception("a call failed", extra={"request_id": exchange.id})
            await exchange.end(challenges.broken())
        except asyncio.CancelledError:
            # The server stops, and the time for this call is over.
            thread = exchange.caller.thread if exchange.caller else 0
            sentence = KEPT if thread and claims.is_working(thread) else STOPPING
            await exchange.end(challenges.problem(503, "stopping", sentence, Retry_After="10"))
        finally:
            bodies.release(exchange.body)
            exchange.take_note()

    async def _answer(self, exchange: Exchange, receive: Receive) -> Answer | None:
        """What is answered without the SDK; None where the SDK has answered, or nobody listens."""
        if (refused := self._guard(exchange)) is not None:
            return refused
        found = credentials.read_credentials(exchange.request.headers)
        if not found and not settings.AUTH_DISABLED:
            return challenges.unauthorised(exchange.request)
        try:
            await self._identify(exchange)
        except (Mem0dashError, DatabaseError, InterfaceError) as error:
            return await _refused(exchange, error)
        headers = exchange.headers
        if bodies.has_body(headers):
            exchange.body = await bodies.read(
                headers, receive, has_credential=True, most=BODY_BYTES
            )
        if exchange.body.gone:
            return None
        if exchange.body.refusal is not None:
            return challenges.refused(exchange.body.refusal)
        try:
            exchange.message = json.loads(exchange.body.data)
        except ValueError as error:
            return challenges.unparsed(str(error))
        if (lacking := _lacking(exchange)) is not None:
            return lacking
        return await self._serve(exchange, receive)

    def _guard(self, exchange: Exchange) -> Answer | None:
        """Why nobody is asked who calls; None where somebody is."""
        request = exchange.request
        host = request.META.get("HTTP_HOST", "")
        if host and not accepted_hosts().accept(host):
            sentence = "This host name is not allowed; add it to ALLOWED_HOSTS."
            return challenges.problem(421, "invalid_host", sentence)
        if not exchange.allow_origin():
            sentence = "Pages of this origin may not call; add it to MCP_ALLOWED_ORIGINS."
            return challenges.problem(403, "invalid_origin", sentence)
        if request.method == "OPTIONS":
            return Answer(204, headers=exchange.preflight())
        if request.method != "POST":
            sentence = "This server keeps no sessions: send every message by POST."
            return challenges.problem(405, "method_not_allowed", sentence, Allow="POST, OPTIONS")
        if self._app is None:
            return _NOT_THERE
        return None

    async def _identify(self, exchange: Exchange) -> None:
        """Finds out who calls; what authentication raises."""
        identify = partial(identification.identify, exchange.request)
        principal = await reading.run(looked_after(identify))
        assert principal is not None  # noqa: S101  (None is for callers that are gone)
        exchange.caller = Caller(principal)

    async def _serve(self, exchange: Exchange, receive: Receive) -> Answer | None:
        """Hands the call to the SDK, and ends it with its credential."""
        if self._app is None:  # stopped since the guard has looked
            return _NOT_THERE
        assert exchange.caller is not None  # noqa: S101  (identified above)
        token = current.set(exchange.caller)
        try:
            work = self._app(exchange.scope, exchange.replaying(receive), exchange.send)
            call = asyncio.ensure_future(work)
        finally:
            current.reset(token)
        try:
            while not (await asyncio.wait({call}, timeout=RECHECK_SECONDS))[0]:
                if not await self._still_holds(exchange):
                    await _cut(exchange, call)
                    await exchange.end(challenges.unauthorised(exchange.request, ENDED))
                    return None
        except asyncio.CancelledError:
            await _cut(exchange, call)
            raise
        if not call.cancelled() and (error := call.exception()) is not None:
            logger.error("a call failed", exc_info=error, extra={"request_id": exchange.id})
        if not exchange.is_over and not exchange.is_gone:
            await exchange.end(challenges.broken())
        return None

    async def _still_holds(self, exchange: Exchange) -> bool:
        """Whether the caller is who they were. While that cannot be asked, they are."""
        assert exchange.caller is not None  # noqa: S101  (identified above)
        identify = partial(identification.identify, exchange.request)
        try:
            now = await reading.run(looked_after(identify))
        except (EngineError, RateLimitedError, DatabaseError, InterfaceError):
            return True
        except Mem0dashError:
            return False
        return now is not None and identification.is_same(now, exchange.caller.principal)


async def _cut(exchange: Exchange, call: "asyncio.Future[Any]") -> None:
    """Cancels what the SDK does for a call, and waits until it has ended."""
    exchange.is_cut = True
    call.cancel()
    await asyncio.wait({call})
    if not call.cancelled():
        call.exception()  # told to nobody: the call is over


async def _refused(exchange: Exchange, error: Exception) -> Answer:
    """Why the credential opens nothing."""
    request, request_id = exchange.request, exchange.id
    if isinstance(error, identification.EndedTokenError):
        # No attempt: 256 bits are not guessed. Clients in the cloud share few addresses, and each
        # has to learn by a 401 that its token has expired.
        return challenges.unauthorised(request, error.message)
    if isinstance(error, InvalidCredentialError):
        count = partial(failures.count_failure, SURFACE, client_address(request))
        left = await writing.run(looked_after(count))
        if left:
            return challenges.problem(429, "rate_limited", failures.DETAIL, Retry_After=str(left))
        return challenges.unauthorised(request, error.message)
    if isinstance(error, DatabaseError | InterfaceError):
        error = database_trouble(error, DATABASE_DOWN, request_id)
    elif isinstance(error, EngineError):
        log_failure(error, request_id)
    assert isinstance(error, Mem0dashError)  # noqa: S101  (nothing else is caught)
    wait = {} if error.retry_after is None else {"Retry_After": str(error.retry_after)}
    return challenges.problem(error.status, error.code, error.message, **wait)


def _lacking(exchange: Exchange) -> Answer | None:
    """The challenge for a grant that lacks the scope of what is called.

    A key cannot be given more scopes by its client, so a tool tells its agent what is missing.
    """
    message, caller = exchange.message, exchange.caller
    if caller is None or caller.principal.via != "oauth" or not isinstance(message, dict):
        return None
    params = message.get("params")
    needed = scope_of(str(message.get("method")), params if isinstance(params, dict) else {})
    held = caller.principal.scopes
    if needed is None or needed in held:
        return None
    return challenges.insufficient(exchange.request, held, needed)
