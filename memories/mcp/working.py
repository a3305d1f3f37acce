"""Where the calls of tools work: in the threads that serve requests, each kind in its own.

Database connections belong to these threads, and are looked after before and after each call as
Django does for a request. Never the ORM on the event loop: what Django offers there shares one
connection that nobody checks.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from core.errors import Mem0dashError
from core.http.threads import ThreadPool, looked_after, threads_for, writing
from core.http.waiting import ProviderWait, WouldWaitError, without_waiting
from memories.mcp.caller import Caller
from memories.providers.waits import really

T = TypeVar("T")

# The first word about a call that takes long, and the next ones, in seconds.
PROGRESS_SECONDS: Final = 2.0


class BusyError(Mem0dashError):
    """Too many calls wait for a model provider."""

    status = 503
    code = "busy"


async def run(
    caller: Caller,
    work: Callable[[], T],
    *,
    waits: ProviderWait,
    reads: bool,
    progress: Callable[[float], Awaitable[None]] | None = None,
) -> T:
    """The result of `work` in a thread of those that wait for the same. While it takes long,
    `progress` is told the seconds. BusyError where too many wait already."""
    waits = really(waits)
    threads = threads_for(waits, "GET" if reads else "POST")

    def noted() -> T:
        caller.thread = threading.get_ident()
        return work()

    inside = looked_after(noted)
    if waits is ProviderWait.LLM and threads.are_taken:
        # It may be stored already, or have nothing in it for a language model.
        try:
            return await _finished(writing, lambda: _at_once(inside), progress)
        except _WaitsError:
            pass
    if threads.is_full:
        raise BusyError(
            "Too many requests wait for a model provider. Nothing of this one is stored.",
            retry_after=10,
        )
    return await _finished(threads, inside, progress)


class _WaitsError(Exception):
    """The work would have waited; nothing has been done."""


def _at_once(inside: Callable[[], T]) -> T:
    try:
        with without_waiting():
            return inside()
    except WouldWaitError:
        raise _WaitsError from None


async def _finished(
    threads: ThreadPool,
    inside: Callable[[], T],
    progress: Callable[[float], Awaitable[None]] | None,
) -> T:
    """Waits for the thread. Where the caller goes away, what is queued is dropped, and what has
    begun goes on: the threads have to know of it until its end."""
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    job = asyncio.ensure_future(threads.run(inside, receive))
    started = asyncio.get_running_loop().time()
    try:
        while progress is not None:
            done, _ = await asyncio.wait({job}, timeout=PROGRESS_SECONDS)
            if done:
                break
            await progress(asyncio.get_running_loop().time() - started)
        result = await asyncio.shield(job)
    except asyncio.CancelledError:
        gone.set()
        job.add_done_callback(_unheard)
        raise
    assert result is not None  # noqa: S101  (None is for callers that are gone; tools answer)
    return result


def _unheard(job: "asyncio.Future[Any]") -> None:
    """Takes an error that nobody waits for any more."""
    if not job.cancelled():
        job.exception()
