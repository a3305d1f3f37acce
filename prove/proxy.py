"""A proxy before the index server that delays, holds and drops what passes through it.

    python -m prove.proxy --upstream HOST:PORT

prints its port. `POST /_proxy` tells it what to do from then on: {"delay": seconds} before each
call, {"drop": true} breaks every connection, {"hold": "PUT"} keeps calls whose method and path
contain that ("" for all) until {"release": true}, which delivers them, also where whoever sent them
has gone. The answer tells how many calls it holds.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any


class Middle:
    """What to do with calls, and those that are held."""

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.delay, self.drop = 0.0, False
        self.hold: str | None = None
        self.released = asyncio.Event()
        self.held = 0

    def told(self, how: dict[str, Any]) -> dict[str, int]:
        if how.get("release"):
            self.released.set()
            self.released = asyncio.Event()
        if how:
            self.delay = how.get("delay", 0.0)
            self.drop = how.get("drop", False)
            self.hold = how.get("hold")
        return {"held": self.held}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, call after call."""
        behind: Any = None
        try:
            while call := await read_call(reader):
                line, head, body = call
                if "/_proxy" in line:
                    answer = json.dumps(self.told(json.loads(body or b"{}"))).encode()
                    await reply(writer, answer)
                    continue
                if self.drop:
                    break
                await self.kept(line)
                if behind is None:
                    behind = await asyncio.open_connection(*self.upstream)
                behind[1].write(head + body)
                await behind[1].drain()
                answer_call = await read_call(behind[0])
                if answer_call is None:
                    break
                writer.write(answer_call[1] + answer_call[2])
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, behind[1] if behind else None):
                if one is not None:
                    one.close()

    async def kept(self, line: str) -> None:
        """Returns when the call may go on."""
        if self.hold is not None and self.hold in line:
            self.held += 1
            try:
                await self.released.wait()
            finally:
                self.held -= 1
        elif self.delay:
            await asyncio.sleep(self.delay)


async def read_call(reader: asyncio.StreamReader) -> tuple[str, bytes, bytes] | None:
    """First line, head and body of a request or an answer; None at the end."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for row in head.split(b"\r\n")[1:]:
            name, _, value = row.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
        body = await reader.readexactly(length)
        return head.split(b"\r\n", 1)[0].decode(), head, body
    return None


async def reply(writer: asyncio.StreamWriter, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def main(host: str, port: int) -> None:
    middle = Middle(host, port)
    server = await asyncio.start_server(middle.serve, "127.0.0.1", 0, limit=64 * 2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Who started it holds the other end of our input: when that is gone, so are we.
    await asyncio.to_thread(sys.stdin.buffer.read)


class Proxy:
    """One as a process of its own."""

    def __init__(self, upstream: str) -> None:
        """`upstream` is the URL of the index server."""
        command = [sys.executable, "-m", "prove.proxy", "--upstream", upstream.split("//")[1]]
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, **how: Any) -> int:
        """Makes it do that; how many calls it held before. `well=True` makes it behave."""
        data = json.dumps(how).encode()
        request = urllib.request.Request(f"{self.url}/_proxy", data, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(json.load(answer)["held"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)
        for pipe in (self.process.stdout, self.process.stdin):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    name, _, number = parser.parse_args().upstream.partition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(name, int(number)))
