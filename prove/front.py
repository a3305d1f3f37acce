"""A proxy before one or more servers of this machine, in a thread of its own.

It takes the servers in turns, one for each request, and adds a credential for clients that cannot
send any. Answers pass as they come, so that streams stay streams.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from prove.server import free_port

_PIECE: Final = 64 * 1024
_ENDS: Final = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)


class Front:
    """Used with `with`; `url` is known before."""

    def __init__(self, ports: Sequence[int] = (), *, token: str = "") -> None:
        """`ports` are the servers'."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._turns = itertools.cycle(ports)
        self._added = b"Connection: close\r\n"
        if token:
            self._added += f"Authorization: Bearer {token}\r\n".encode()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def stand_before(self, ports: Sequence[int]) -> None:
        """Sets the servers, where they have to know this proxy's address first."""
        self._turns = itertools.cycle(ports)

    def __enter__(self) -> "Front":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(timeout=20)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(timeout=20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=20)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _stop(self) -> None:
        self._server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*_ENDS):
            line = await reader.readuntil(b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            behind, to_server = await asyncio.open_connection("127.0.0.1", next(self._turns))
            to_server.write(line + self._added + _without_connection(head) + body)
            answer = asyncio.ensure_future(_pass_on(behind, writer))
            # A client that hangs up ends its call: the server has to see that.
            hung_up = asyncio.ensure_future(reader.read(1))
            try:
                await asyncio.wait({answer, hung_up}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                answer.cancel()
                hung_up.cancel()
                to_server.close()
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(*_ENDS):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()


def _without_connection(head: bytes) -> bytes:
    rows = head.split(b"\r\n")
    return b"\r\n".join(row for row in rows if not row.lower().startswith(b"connection:"))


def _length(head: bytes) -> int:
    for row in head.split(b"\r\n"):
        name, _, value = row.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0
