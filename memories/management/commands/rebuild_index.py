"""Rebuilds the search index from the database, whether or not the server runs."""

import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from core.errors import ConflictError, IndexInUseError, Mem0dashError
from memories import runtime
from memories.backfill import token_states as token_work
from memories.backfill import vectors
from memories.index.folder import is_held
from memories.models import Memory
from memories.models.server import IndexState

WAIT_SECONDS = 3600


class Command(BaseCommand):
    help = "Builds the search index anew from the database; no embedding is made again."

    def handle(self, *args: Any, **options: Any) -> None:
        asked_at = timezone.now()
        IndexState.objects.update(rebuild_wanted_at=asked_at)
        try:
            running = runtime.open_runtime()
        except IndexInUseError:
            self._wait(asked_at)  # the embedded index, which the server holds
            return
        assert running.indexer is not None  # noqa: S101  (open_runtime gives one)
        if why := running.indexer.problem:
            running.close()
            raise CommandError(f"The index cannot be built now. {why}")
        try:
            vectors.embed_missing(running)
            count = running.indexer.rebuild(self._show)
            # A running server reads again what this removes.
            from memories.engine.token_reader import STATES_KEY  # which other commands can spare

            token_work.check_texts(STATES_KEY, None)
        except ConflictError:
            self._wait(asked_at)
            return
        except Mem0dashError as error:
            raise CommandError(error.message) from error
        finally:
            running.close()
        self.stdout.write(f"The index holds {count:,} memories.")

    def _show(self, done: int, total: int) -> None:
        self.stdout.write(f"{done:,} of {total:,}")

    def _wait(self, asked_at: Any) -> None:
        """The server holds the index, or a worker is at it: that one rebuilds, this waits, for as
        long as there is one."""
        self.stdout.write("The server is running and rebuilds its index now.")
        for _ in range(WAIT_SECONDS):
            if not settings.QDRANT_URL and not is_held(settings.DATA_DIR / "index"):
                raise CommandError(
                    "The server has stopped. Run rebuild_index again to build the index without it."
                )
            state = IndexState.objects.first()
            if state is not None and state.built_at is not None and state.built_at > asked_at:
                count = Memory.objects.filter(deleted_at=None).count()
                self.stdout.write(f"The index holds {count:,} memories.")
                return
            time.sleep(1)
        raise CommandError("The server has not rebuilt its index within an hour; see its log.")
