"""A closed-loop HTTP client on bare asyncio streams.

Client and server share the machine's cores: httpx costs more CPU per request than the server under
test, a bare stream a tenth of that.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    body: Any = None
    expect: int = 200
    # Further lines of the head.
    head: str = ""


@dataclass(slots=True)
class Result:
    """What a run of one kind of request gave; `answers` are kept where asked for."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failures: dict[int, int] = field(default_factory=dict)
    answers: list[Any] = field(default_factory=list)

    def add(self, other: "Result") -> None:
        self.latencies += other.latencies
        self.seconds += other.seconds
        self.answers += other.answers
        for status, count in other.failures.items():
            self.failures[status] = self.failures.get(status, 0) + count


class Connection:
    """One kept-alive connection to the server on loopback."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.headers = f"Host: 127.0.0.1:{port}\r\nX-API-Key: {key}\r\n"

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    def close(self) -> None:
        self.writer.close()

    async def send(self, request: Request) -> tuple[int, bytes]:
        """Status and body."""
        head = f"{request.method} {request.path} HTTP/1.1\r\n{self.headers}{request.head}"
        body = b"" if request.body is None else json.dumps(request.body).encode()
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in answer.lower().split(b"\r\n")[1:-2])
        if fields.get(b"transfer-encoding") == b"chunked":
            return int(answer[9:12]), await self._chunks()
        length = int(fields.get(b"content-length", 0))
        return int(answer[9:12]), await self.reader.readexactly(length)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return body


async def run(
    port: int,
    key: str,
    requests: Iterator[Request],
    *,
    concurrency: int,
    seconds: float,
    keep: bool,
) -> Result:
    """Sends the requests over `concurrency` connections until they, or the seconds, are used up."""
    result = Result()
    ends = time.perf_counter() + seconds

    async def worker() -> None:
        connection = Connection(port, key)
        await connection.open()
        for request in requests:
            started = time.perf_counter()
            status, body = await connection.send(request)
            now = time.perf_counter()
            result.latencies.append(now - started)
            if status != request.expect:
                result.failures[status] = result.failures.get(status, 0) + 1
            if keep:
                result.answers.append(json.loads(body))
            if now > ends:
                break
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    result.seconds = time.perf_counter() - started
    return result
