"""Reads the body of a request, within bounds of bytes, of time, and of memory for all bodies."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings

from core import limits
from core.http.middleware import Refusal
from core.http.threads import Receive

_BUSY: Final = "The server holds too many large requests. Try again shortly."


class BodyBudget:
    """How many bytes of bodies this process holds. The first OPEN_BODY_BYTES of each are free: that
    many connections there are at the most."""

    def __init__(self) -> None:
        self.held = 0

    def take(self, size: int) -> bool:
        """Whether there is room for `size` bytes more; if so, they are held."""
        if size > 0 and self.held + size > settings.MAX_BODIES_BYTES:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        self.held -= size


room = BodyBudget()


@dataclass(slots=True)
class Body:
    """The result of reading a body. `refusal` says why it is incomplete, `gone` that the client
    hung up. `held` are the bytes that it takes of the room."""

    data: bytes = b""
    refusal: Refusal | None = None
    gone: bool = False
    held: int = 0


def has_body(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the headers announce a body."""
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


async def read(
    headers: Mapping[bytes, bytes], receive: Receive, *, has_credential: bool, most: int = 0
) -> Body:
    """The body, of at most `most` bytes, or as many as the settings say. Without a credential it
    has to be small, and there all at once."""
    most = (most or settings.MAX_BODY_BYTES) if has_credential else limits.OPEN_BODY_BYTES
    declared = headers.get(b"content-length", b"")
    is_large = declared.isdigit() and int(declared) > most
    body = Body()
    if is_large and (not has_credential or b"expect" in headers):
        # Whoever asks first does not send it.
        body.refusal = _too_large(most, close=True)
        return body
    try:
        async with asyncio.timeout(settings.CLIENT_SECONDS) as clock:
            if is_large:
                await _drain(body, 0, most, receive, clock)
            else:
                await _read(body, most, receive, clock, has_credential=has_credential)
    except TimeoutError:
        body.data = b""
        body.refusal = body.refusal or Refusal(
            408, "The request's body did not come in time.", close=True
        )
    return body


async def _read(
    body: Body, most: int, receive: Receive, clock: asyncio.Timeout, *, has_credential: bool
) -> None:
    chunks: list[bytes] = []
    size, started = 0, asyncio.get_running_loop().time()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            body.gone = True
            return
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > most:
            body.refusal = _too_large(most, close=more)
            if more and has_credential:
                chunks.clear()
                await _drain(body, size, most, receive, clock)
            return
        wanted = max(0, size - limits.OPEN_BODY_BYTES) - body.held
        if not room.take(wanted):
            body.refusal = Refusal(503, _BUSY, code="busy", retry_after=5, close=more)
            return
        body.held += wanted
        if not more:
            body.data = b"".join(chunks)
            return
        if has_credential:
            clock.reschedule(started + settings.CLIENT_SECONDS + size / limits.BODY_RATE)


async def _drain(
    body: Body, size: int, most: int, receive: Receive, clock: asyncio.Timeout
) -> None:
    """Reads and drops the rest: a client that is still sending would not see the answer."""
    body.refusal = _too_large(most, close=True)
    clock.reschedule(asyncio.get_running_loop().time() + settings.CLIENT_SECONDS)
    while size < limits.DRAIN_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            body.gone = True
            return
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            body.refusal = _too_large(most, close=False)
            return


def _too_large(most: int, *, close: bool) -> Refusal:
    size = f"{most // 1024 // 1024} MiB" if most >= 1024 * 1024 else f"{most // 1024} KiB"
    return Refusal(413, f"The request body is larger than {size}.", close=close)


def release(body: Body) -> None:
    """Frees the room of a body that is no longer needed."""
    room.give_back(body.held)
    body.held = 0


def headers_by_name(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers of a request by name; the last one, if a name is repeated."""
    return dict(scope["headers"])
