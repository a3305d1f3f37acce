"""The threads that serve requests: those that wait for the same share them, and a queue."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from django.conf import settings
from django.db import close_old_connections

from core.database.postgresql.sharing import CONNECTIONS, Few, let_go_if_scarce, share
from core.http.waiting import ProviderWait

T = TypeVar("T")
# The threads that are answering a request.
answering: Final[set[int]] = set()
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ThreadPool:
    """A pool of threads. What is asked of it is asked on the event loop."""

    def __init__(
        self, name: str, count: int, *, queue: int, connections: int = 0, abandoned: int = 0
    ) -> None:
        """`connections` is how many connections to PostgreSQL the threads share, where each has
        none of its own. `abandoned` is for how many requests whose client has hung up there are
        threads beside the `count`: they go on, and keep nobody waiting."""
        self._pool = ThreadPoolExecutor(
            count + abandoned,
            thread_name_prefix=f"mem0dash-{name}",
            initializer=partial(share, Few(connections)) if connections else None,
        )
        self._count, self._most = count, count + queue
        self._taken = 0
        # Those that wait for a place, first come, first served; None where threads are places.
        self._places = asyncio.Semaphore(count) if abandoned else None
        self._abandoned, self._most_abandoned = 0, abandoned
        self._shares = bool(connections)
        self.connections = connections or count

    @property
    def are_taken(self) -> bool:
        """Whether one who comes now has to wait for a thread."""
        return self._taken >= self._count

    @property
    def is_full(self) -> bool:
        """Whether all threads are taken, and as many wait for one as may."""
        return self._taken >= self._most

    async def run(self, work: Callable[[], T], receive: Receive | None = None) -> T | None:
        """Runs `work` in a thread and returns its result. Returns None if the client hung up before
        a thread was free; `receive` tells of that."""
        if self._places is not None:
            return await self._run_in_place(self._places, work, receive)
        queues = self.are_taken
        self._taken += 1
        try:
            job = self._submit(work)
            future = asyncio.wrap_future(job)
            if queues and receive and await _hangs_up(receive, future) and job.cancel():
                return None
            return await future
        finally:
            self._taken -= 1

    async def _run_in_place(
        self, places: asyncio.Semaphore, work: Callable[[], T], receive: Receive | None
    ) -> T | None:
        """As `run`. A request whose client hangs up meanwhile gives its place to the next, and goes
        on: what it does, such as to store an add, was promised."""
        self._taken += 1
        has_place, is_counted = False, True
        try:
            has_place = await _has_come(places, receive)
            if not has_place:
                return None
            future = asyncio.wrap_future(self._submit(work))
            is_left = receive is not None and await _hangs_up(receive, future)
            if is_left and not future.done() and self._abandoned < self._most_abandoned:
                places.release()
                self._taken -= 1
                self._abandoned += 1
                has_place = is_counted = False
            return await future
        finally:
            if has_place:
                places.release()
            if is_counted:
                self._taken -= 1
            else:
                self._abandoned -= 1

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        return self._pool.submit(_letting_go(work) if self._shares else work)


async def _has_come(places: asyncio.Semaphore, receive: Receive | None) -> bool:
    """Waits for a place; False where the client hung up before."""
    if not places.locked() or receive is None:
        await places.acquire()
        return True
    waiting = asyncio.ensure_future(places.acquire())
    try:
        if await _hangs_up(receive, waiting) and not waiting.done():
            return False
        return await waiting
    finally:
        waiting.cancel()


def _letting_go(work: Callable[[], T]) -> Callable[[], T]:
    """So that a thread which waits for its next request keeps no connection from the others."""

    def run() -> T:
        try:
            return work()
        finally:
            let_go_if_scarce()

    return run


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


# Requests that wait for a language model whose clients have hung up: so many take no place from
# others, however long it hangs.
ABANDONED: Final = 64
# How many there are of all together says docs/scaling.md: on PostgreSQL each keeps a connection,
# but for those that wait for a language model.
_count, _most = settings.THREADS, settings.MAX_CONNECTIONS
_waiters, _queue = settings.WAITING_THREADS, settings.WAITING_QUEUE
# Reads, and what is no database's business: they wait for nobody.
reading = ThreadPool("reading", _count, queue=_most)
# Writes, which may wait for each other.
writing = ThreadPool("writing", _share(_count, 2), queue=_most)
# Files and exports, as long as somebody reads them.
streaming = ThreadPool("streaming", _share(_count, 4), queue=_most)
_waiting = {
    ProviderWait.QUERY: ThreadPool("query", _count, queue=_most),
    ProviderWait.EMBEDDER: ThreadPool("embedder", _share(_waiters, 4), queue=_queue),
    ProviderWait.LLM: ThreadPool(
        "llm",
        _waiters,
        queue=_queue,
        connections=min(_waiters, CONNECTIONS),
        abandoned=ABANDONED,
    ),
    ProviderWait.PROVIDERS: ThreadPool("providers", _share(_count, 8), queue=_queue),
    ProviderWait.PARTS: ThreadPool("parts", 2, queue=_most),
}


def most_connections() -> int:
    """How many connections to PostgreSQL all these threads have open at the most."""
    return sum(pool.connections for pool in (reading, writing, streaming, *_waiting.values()))


def threads_for(waits: ProviderWait, method: str) -> ThreadPool:
    """Those that serve a request."""
    if waits is not ProviderWait.NOBODY:
        return _waiting[waits]
    return reading if method in {"GET", "HEAD", "OPTIONS"} else writing


def looked_after(work: Callable[[], T]) -> Callable[[], T]:
    """`work` for a thread of these, with database connections that hold: what Django does around a
    request, for what is none of its."""

    def run() -> T:
        thread = threading.get_ident()
        answering.add(thread)
        close_old_connections()
        try:
            return work()
        finally:
            close_old_connections()
            answering.discard(thread)

    return run
