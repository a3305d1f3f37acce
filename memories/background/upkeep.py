"""What happens behind the scenes: index and vectors are kept in order.

Embedded, one process does it all. Distributed, every process follows what the others did; the rest
is the workers' work, and that of the web processes only while there is no worker. What one process
at a time does is under a lease, so that any number of them may be on duty.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from django.db import Error as AnyDatabaseError
from django.db import close_old_connections, connection

from core import disk
from core.database.datastore import problem_of
from core.database.sqlite3 import logs
from core.errors import (
    ConflictError,
    DiskFullError,
    IndexPausedError,
    IndexUnavailableError,
    Mem0dashError,
    StorageError,
)
from jobs import leases
from jobs.leases import HeldLease
from memories.adding import claims
from memories.backfill import token_states as token_work
from memories.backfill import vectors
from memories.background import resuming
from memories.bulk import job as bulk_work
from memories.engine.opening import LazyLlm
from memories.index.indexer import Indexer
from memories.models.server import INDEX_BUILD
from memories.providers import reembedding
from memories.runtime import Runtime

logger = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 1.0
RESUME_SECONDS: Final = 30.0
CLAIMS_SECONDS: Final = 30.0
EMBED_SECONDS: Final = 600.0
STATES_SECONDS: Final = 600.0
# After a look for missing token states that failed, or that another process was at.
STATES_AGAIN_SECONDS: Final = 10.0
RECONCILE_SECONDS: Final = 3600.0
LOG_SECONDS: Final = 30.0
RECONCILE_LEASE_SECONDS: Final = 60.0
# Nobody's lease: as long as it lasts, the index was compared not long ago. Apart from the lease of
# who compares, so that one who dies at it keeps the others from it for a minute, not for an hour.
RECONCILED: Final = "reconciled"
# While the disk is full, one line of the log in so many seconds says what rests for it.
PAUSED_SECONDS: Final = 60.0
# All workers renew it, as one holder: the web processes see that there is a worker.
WORKERS: Final = "workers"
WORKERS_SECONDS: Final = 20.0
EMBED_LEASE_SECONDS: Final = 120.0
BULK_LEASE_SECONDS: Final = 60.0


def take_over(runtime: Runtime) -> None:
    """Before this process serves: where it is alone with the database, adds that still count as
    running died with the process that ran them, and end as failed."""
    if runtime.indexer is None or not runtime.indexer.is_alone:
        return
    try:
        claims.take_over()
    except AnyDatabaseError as error:
        # Reads are served all the same; health tells what is wrong.
        if problem_of(error) not in {"full", "read-only", "busy"}:
            raise
        logger.warning("adds of before are not ended yet", extra={"cause": str(error)[:300]})


class Upkeep:
    """The background work of a process: a thread for what is quick, one for what takes long, one
    for the bulk changes that people wait for, one for token states, which new memories are to have
    within seconds while others are embedded for hours, and one for adds that a stop cut off."""

    def __init__(self, runtime: Runtime, *, is_worker: bool = False) -> None:
        self.runtime = runtime
        self.is_worker = is_worker
        self.is_alone = runtime.indexer is None or runtime.indexer.is_alone
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._last: dict[str, float] = {}
        self._asked: set[str] = set()
        self._told: dict[str, float] = {}
        self._was_full = False

    def start(self) -> None:
        """Starts the background threads."""
        threads = {
            "upkeep": self._quick,
            "slow-upkeep": self._slow,
            "bulk": self._bulk,
            "states": self._states,
            "resuming": self._resuming,
        }
        for name, work in threads.items():
            thread = threading.Thread(target=work, name=f"mem0dash-{name}", daemon=True)
            thread.start()
            # An LLM may let that one wait for minutes; what it is at is tried again as well.
            if name != "resuming":
                self._threads.append(thread)

    def stop(self) -> None:
        """Ends the background threads and closes the index."""
        self._stop.set()
        # What is under way can be broken off anywhere; it is gone on with after the next start.
        until = time.monotonic() + 15
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))
        self.runtime.close()

    # --- What is quick ---------------------------------------------------------------------------
    def _quick(self) -> None:
        while not self._stop.is_set():
            self._guarded(self._quick_round)
            self._stop.wait(DRAIN_SECONDS)
        connection.close()

    def _quick_round(self) -> None:
        self._guarded(self._watch_disk)
        self._follow()
        if self._on_duty():
            for work in (self.runtime.tick, self._flip, self._end_claims, self._log):
                self._guarded(work)

    def _watch_disk(self) -> None:
        """Says when the disk is full, and when it no longer is; meanwhile deletes get what room
        there is."""
        problem = ""
        try:
            disk.check_room()
        except DiskFullError as error:
            problem = error.message
        if problem and not self._was_full:
            logger.error(
                "the disk is full: nothing is stored until there is room", extra={"why": problem}
            )
        elif self._was_full and not problem:
            logger.info("the disk has room again: memories are stored")
        self._was_full = bool(problem)
        disk.tend_reserve()
        if problem and connection.vendor == "sqlite" and disk.is_low():
            # What is in the journal already is moved to its place, and its room used again.
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _follow(self) -> None:
        """What other processes and commands changed: the providers, the index."""
        self.runtime.refresh()
        if self.runtime.indexer is not None:
            self.runtime.indexer.refresh()

    def is_on_duty(self) -> bool:
        """Whether this process takes the jobs that any process may do."""
        return self.is_alone or self.is_worker or not leases.is_held(WORKERS)

    def _on_duty(self) -> bool:
        """Whether the work that is no process's own is this one's."""
        if self.is_alone:
            return True
        if not self.is_worker:
            return not leases.is_held(WORKERS)
        if self._due(WORKERS, WORKERS_SECONDS / 4):
            leases.acquire(WORKERS, WORKERS_SECONDS, holder=WORKERS)
        return True

    def _flip(self) -> None:
        job = reembedding.find_running()
        if job is not None and job.embedded_at is not None and self._free(INDEX_BUILD):
            reembedding.flip(self.runtime)

    def _end_claims(self) -> None:
        if self.is_alone:
            claims.abandon_claims()
        elif self._due("claims", CLAIMS_SECONDS):
            claims.end_expired(of_all_times=self._first("claims of all times"))

    def _log(self) -> None:
        if connection.vendor == "sqlite" and self._due("log", LOG_SECONDS):
            logs.shorten(connection)

    # --- What takes long -------------------------------------------------------------------------
    def _slow(self) -> None:
        self._guarded(self._prepare_llm)
        while not self._stop.is_set():
            self._guarded(self._slow_round)
            self._stop.wait(DRAIN_SECONDS)
        connection.close()

    def _slow_round(self) -> None:
        self._guarded(self.runtime.ask_for_dims)
        if self._on_duty():
            for work in (self._embed, self._reembed, self._reconcile):
                self._guarded(work)

    def _prepare_llm(self) -> None:
        """The first add need not wait for it."""
        if isinstance(self.runtime.engine.llm, LazyLlm):
            self.runtime.engine.llm.prepare()

    def _embed(self) -> None:
        """Makes missing vectors: with a new embedder at once, and now and then."""
        engine = self.runtime.engine
        if engine.embedder is None or not self._due(f"embed {engine.model_key}", EMBED_SECONDS):
            return
        if self.is_alone:
            vectors.embed_missing(self.runtime, self._stop)
        else:
            with leases.hold("embed", EMBED_LEASE_SECONDS) as lease:
                vectors.embed_missing(self.runtime, _WhileHeld(self._stop, lease))

    def _reembed(self) -> None:
        job = reembedding.find_running()
        if job is not None and job.embedded_at is None and self._free(reembedding.LEASE):
            reembedding.work(job, stop=self._stop)

    def _reconcile(self) -> None:
        """Compares the shared index with SQL, and repairs it: the net below all the others."""
        indexer = self.runtime.indexer
        if self.is_alone or indexer is None or not indexer.complete:
            return
        if not self._due("reconcile", 60.0) or leases.is_held(RECONCILED):
            return
        if leases.is_held("reconcile"):
            return
        with leases.hold("reconcile", RECONCILE_LEASE_SECONDS) as lease:
            # Another one may have ended right before.
            if not leases.is_held(RECONCILED):
                _repaired(indexer, lease)
                leases.acquire(RECONCILED, RECONCILE_SECONDS, holder=RECONCILED)

    # --- What people wait for --------------------------------------------------------------------
    def _bulk(self) -> None:
        while not self._stop.is_set():
            self._guarded(self._bulk_round)
            self._stop.wait(DRAIN_SECONDS)
        connection.close()

    def _bulk_round(self) -> None:
        if not self._on_duty() or not bulk_work.has_work():
            return
        if self.is_alone:
            bulk_work.work(self.runtime.apply, self._stop)
        elif leases.acquire(bulk_work.LEASE, BULK_LEASE_SECONDS):
            with leases.hold(bulk_work.LEASE, BULK_LEASE_SECONDS) as lease:
                bulk_work.work(self.runtime.apply, _WhileHeld(self._stop, lease))

    # --- What a stop cut off ---------------------------------------------------------------------
    def _resuming(self) -> None:
        while not self._stop.is_set():
            self._guarded(self._resume_round)
            self._stop.wait(RESUME_SECONDS)
        connection.close()

    def _resume_round(self) -> None:
        if self._on_duty():
            resuming.resume(self._stop)

    # --- Token states ----------------------------------------------------------------------------
    def _states(self) -> None:
        while not self._stop.is_set():
            self._guarded(self._states_round)
            self._stop.wait(DRAIN_SECONDS)
        connection.close()

    def _states_round(self) -> None:
        self.runtime.prepare_reader()
        if self.runtime.engine.reader is not None:
            token_work.make_for_new(self.runtime)
            if self._on_duty():
                self._sweep_states()

    def _sweep_states(self) -> None:
        """Looks for memories that lack their states: at once after the start and after a change of
        the configuration, and then now and then."""
        indexer = self.runtime.indexer
        built = indexer.state.generation if indexer is not None else 0
        # Also after the index was built again: somebody found something wrong.
        name = f"states {self.runtime.version} {built}"
        if not self._due(name, STATES_SECONDS):
            return
        again = STATES_AGAIN_SECONDS
        try:
            if leases.is_held(token_work.LEASE):
                return
            # A command may be at it as well, so the only server takes the lease too.
            with leases.hold(token_work.LEASE, token_work.LEASE_SECONDS) as lease:
                self._check_states(_WhileHeld(self._stop, lease))
                token_work.make_missing(self.runtime, _WhileHeld(self._stop, lease))
            again = STATES_SECONDS
        finally:
            self._last[name] = time.monotonic() + again - STATES_SECONDS

    def _check_states(self, stop: threading.Event) -> None:
        """Once after the start, and with each new index: an older version may have been here."""
        reader, indexer = self.runtime.engine.reader, self.runtime.indexer
        built = indexer.state.generation if indexer is not None else 0
        if reader is not None and f"checked {reader.states_key} {built}" not in self._asked:
            token_work.check_texts(reader.states_key, reader, stop)
            if not stop.is_set():
                self._asked.add(f"checked {reader.states_key} {built}")

    # --- When and by whom ------------------------------------------------------------------------
    def _first(self, name: str) -> bool:
        """Whether this is asked for the first time."""
        asked_before = name in self._asked
        self._asked.add(name)
        return not asked_before

    def _due(self, name: str, seconds: float) -> bool:
        """Whether it is time for this again in this process; if so, it counts as done."""
        now = time.monotonic()
        if now - self._last.get(name, float("-inf")) < seconds:
            return False
        self._last[name] = now
        return True

    def _free(self, lease: str) -> bool:
        """Whether nobody is at it: to try all the same would be refused, and logged, each time."""
        return self.is_alone or not leases.is_held(lease)

    def _is_news(self, what: str) -> bool:
        """Whether the log has not been told this for PAUSED_SECONDS."""
        now = time.monotonic()
        if now - self._told.get(what, float("-inf")) < PAUSED_SECONDS:
            return False
        # Of different reasons, a while's.
        self._told = {k: at for k, at in self._told.items() if now - at < PAUSED_SECONDS}
        self._told[what] = now
        return True

    def _guarded(self, work: Callable[[], object]) -> None:
        """One failing round must not end the loop: whatever it was, the next may go well."""
        try:
            close_old_connections()
            work()
        except ConflictError as error:
            logger.info("background work is left to another process", extra={"why": error.message})
        except (StorageError, IndexPausedError) as error:
            # It goes on by itself once there is room, and is tried each second until then.
            if self._is_news(error.code):
                logger.warning("background work rests", extra={"why": error.message})
        except (Mem0dashError, AnyDatabaseError) as error:
            # While something is away, this comes every second.
            if not self._is_news(f"{type(error).__name__}: {error}"[:300]):
                return
            outage = isinstance(error, IndexUnavailableError | AnyDatabaseError)
            extra = {"cause": str(error.__cause__ or "").strip()[:300] if outage else ""}
            logger.error(f"background work failed; trying again: {str(error).strip()}", extra=extra)
        except Exception:  # see the docstring
            logger.exception("background work failed; trying again")


def _repaired(indexer: Indexer, lease: HeldLease) -> None:
    """Compares the index with SQL and applies again what differs."""
    found = indexer.differences(each=lease.renew)
    if found.all:
        counts = {
            "missing": len(found.missing),
            "stale": len(found.stale),
            "ghosts": len(found.ghosts),
        }
        logger.warning("the index differed from the database: repaired", extra=counts)
        indexer.repair(found, each=lease.renew)


class _WhileHeld(threading.Event):
    """Set when the process stops; asking renews the lease, and LeaseLostError ends the work."""

    def __init__(self, stop: threading.Event, lease: HeldLease) -> None:
        super().__init__()
        self._stop, self._lease = stop, lease

    def is_set(self) -> bool:
        if not self._stop.is_set():
            self._lease.renew()
        return self._stop.is_set()
