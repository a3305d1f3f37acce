"""The threads that serve requests: those that wait for the same share them, and a queue."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.conf import settings

from mem0dash.waiting import Waits

T = TypeVar("T")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Threads:
    """A pool of threads. What is asked of it is asked on the event loop."""

    def __init__(self, name: str, count: int, *, queue: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=f"mem0dash-{name}")
        self._count, self._most = count, count + queue
        self._taken = 0

    @property
    def is_full(self) -> bool:
        """Whether all threads are taken, and as many wait for one as may."""
        return self._taken >= self._most

    async def run(self, work: Callable[[], T], receive: Receive | None = None) -> T | None:
        """What `work` gives in a thread; None where the client, of whom `receive` tells, hung up
        before there was one."""
        queues = self._taken >= self._count
        self._taken += 1
        try:
            job = self._pool.submit(work)
            future = asyncio.wrap_future(job)
            if queues and receive and await _hangs_up(receive, future) and job.cancel():
                return None
            return await future
        finally:
            self._taken -= 1


async def _hangs_up(receive: Receive, answered: asyncio.Future[Any]) -> bool:
    """Waits until the client has hung up, or is answered; whether it has hung up."""

    async def disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({answered, gone}, return_when=asyncio.FIRST_COMPLETED)
        return gone.done()
    finally:
        gone.cancel()


def _share(of: int, part: int) -> int:
    return max(2, of // part)


# How many there are of all together says docs/scaling.md: on PostgreSQL each keeps a connection.
_count, _most = settings.THREADS, settings.MAX_CONNECTIONS
_waiters, _queue = settings.WAITING_THREADS, settings.WAITING_QUEUE
# Reads, and what is no database's business: they wait for nobody.
reading = Threads("reading", _count, queue=_most)
# Writes, which may wait for each other.
writing = Threads("writing", _share(_count, 2), queue=_most)
# Files and exports, as long as somebody reads them.
streaming = Threads("streaming", _share(_count, 4), queue=_most)
_waiting = {
    Waits.QUERY: Threads("query", _count, queue=_most),
    Waits.EMBEDDER: Threads("embedder", _share(_waiters, 4), queue=_queue),
    Waits.LLM: Threads("llm", _waiters, queue=_queue),
    Waits.PROVIDERS: Threads("providers", _share(_count, 4), queue=_queue),
    Waits.PARTS: Threads("parts", 2, queue=_most),
}


def threads_for(waits: Waits, method: str) -> Threads:
    """Those that serve a request."""
    if waits is not Waits.NOBODY:
        return _waiting[waits]
    return reading if method in {"GET", "HEAD", "OPTIONS"} else writing
