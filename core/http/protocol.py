"""uvicorn's HTTP protocol with limits: closes connections that send no request, or whose client
does not read.

uvicorn itself waits forever for the head of a request, buffers any amount of it, and keeps answers
that nobody reads.
"""

import asyncio
import json
from typing import Any, Final

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from core import limits

# The name of the protocol object in the scope of a request.
CONNECTION: Final = "mem0dash.connection"
# The most bytes of framing around each piece of a chunked body.
_CHUNK_BYTES: Final = 32

# The connections without a current request, the oldest first.
_idle: dict["BoundedProtocol", None] = {}


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # The ignore: as in uvicorn.
        super().connection_made(transport)
        self._beside_bodies = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > settings.MAX_CONNECTIONS:
            self._make_room()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_head()
        self._reads_again()
        super().connection_lost(exc)

    def is_gone(self) -> bool:
        """Whether the client has hung up."""
        return self.transport.is_closing()

    # --- What comes in ----------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self._beside_bodies += len(data)
        super().data_received(data)
        if self._beside_bodies > limits.HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "The request's head is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]  # our own

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110 section 5.5: white space around a value is no part of it. The parser leaves it.
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self._has_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_bodies = max(0, self._beside_bodies - len(body) - _CHUNK_BYTES)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._beside_bodies = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        is_idle = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._end()
        elif is_idle:
            self._await_head()

    def timeout_keep_alive_handler(self) -> None:
        self._end()

    def _await_head(self) -> None:
        """Starts the time limit for the next head, which includes the rest of an unread body."""
        self._has_head()
        _idle[self] = None
        self._head_timer = self.loop.call_later(settings.CLIENT_SECONDS, self._head_is_late)

    def _has_head(self) -> None:
        _idle.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self._beside_bodies:
            self._refuse(408, "The request did not come in time.")
        else:
            self._end()

    def _make_room(self) -> None:
        """Closes the oldest connection without a request; if all have one, refuses this
        connection."""
        if oldest := next(iter(_idle), None):
            oldest.transport.abort()
            _idle.pop(oldest, None)
        else:
            self._refuse(503, "The server has too many connections. Try again shortly.")

    # --- What goes out ----------------------------------------------------------------------------
    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._reads_again()
        super().resume_writing()

    def _watch_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(
            settings.CLIENT_SECONDS, self._check_reader, unsent
        )

    def _check_reader(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < limits.READ_BYTES:
            self.transport.abort()
        else:
            self._watch_reader()

    def _reads_again(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, status: int, detail: str) -> None:
        """Sends an error before there is a complete request, and ends the connection."""
        cycle: Any = self.cycle  # typed in uvicorn as if it always existed
        if cycle is None or cycle.response_complete:
            body = json.dumps({"detail": detail}).encode()
            head = [STATUS_LINE[status], b"content-type: application/json\r\n"]
            head += [b"content-length: %d\r\n" % len(body)]
            head += [b"retry-after: 5\r\n"] if status == 503 else []
            self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", body]))
        self._end()

    def _end(self) -> None:
        """Ends the connection once everything is written, or after a while in any case."""
        if not self.transport.is_closing():
            self.transport.close()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(settings.CLIENT_SECONDS, self.transport.abort)


def is_gone(scope: Any) -> bool:
    """Whether the client of this request has hung up."""
    connection = scope.get(CONNECTION)
    return connection is not None and connection.is_gone()
