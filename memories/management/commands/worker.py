"""Does the background work of the distributed form, without serving anything."""

import signal
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mem0dash.env import ConfigurationError
from mem0dash.errors import Mem0dashError
from mem0dash.migration import prepare_database
from memories import runtime
from memories.upkeep import Upkeep


class Command(BaseCommand):
    help = "Keeps index, vectors and retention in order, for web processes elsewhere."
    # The database is brought up to date first.
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.QDRANT_URL:
            raise CommandError(
                "Workers belong to the form with PostgreSQL and a Qdrant server: set DATABASE_URL "
                "and QDRANT_URL. With the embedded index, `serve` does this work itself."
            )
        prepare_database()
        # Before this there is nothing to put in order, and waiting for others has to end at once.
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        self.check()
        try:
            running = runtime.open_runtime()
        except Mem0dashError as error:
            raise ConfigurationError(error.message) from error
        runtime.install(running)
        upkeep = Upkeep(running, is_worker=True)
        upkeep.start()
        self.stdout.write("mem0dash works in the background.")
        self.stdout.flush()
        stopped.wait()
        upkeep.stop()
        self.stdout.write("mem0dash has stopped.")
