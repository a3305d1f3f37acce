"""Runs background work for web processes, without serving requests."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from core.env import ConfigurationError
from core.errors import Mem0dashError
from jobs.runner import Runner
from mem0dash.migration import prepare_database
from memories import runtime
from memories.background.upkeep import Upkeep


class Command(BaseCommand):
    help = (
        "Works in the background of web processes elsewhere: on jobs, and with a Qdrant server on "
        "index, vectors and retention as well."
    )
    # The migration comes first.
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor == "sqlite":
            raise CommandError(
                "Workers need PostgreSQL: set DATABASE_URL. On SQLite `serve` does all background "
                "work itself, and a second process would only wait for the same lock."
            )
        prepare_database()
        # Only now, because before this there is nothing to clean up, and a signal must end a wait
        # at once.
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        self.check()
        with _at_work() as message:
            self.stdout.write(message)
            self.stdout.flush()
            stopped.wait()
        self.stdout.write("mem0dash has stopped.")


@contextmanager
def _at_work() -> Iterator[str]:
    """Runs all background work if the index is on a server, else only jobs that need no index,
    because the serving process has it open. Yields a message that says which."""
    if not settings.QDRANT_URL:
        runner = Runner(has_index=False)
        runner.start()
        yield "mem0dash works in the background, on jobs that need no index."
        runner.stop()
        return
    try:
        running = runtime.open_runtime()
    except Mem0dashError as error:
        raise ConfigurationError(error.message) from error
    runtime.install(running)
    upkeep, runner = Upkeep(running, is_worker=True), Runner()
    upkeep.start()
    runner.start()
    yield "mem0dash works in the background."
    runner.stop()
    upkeep.stop()
