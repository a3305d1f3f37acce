"""Builds the local embedding model from its installed weights."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from memories.engine.local_model import WeightsError, WeightsMissingError, prepare


class Command(BaseCommand):
    """Exit status 0 when the model is ready or cannot be had, 1 when something is wrong with it."""

    help = "Prepare the local embedding model (once; a second run returns at once)."
    # Runs before the database exists.
    requires_system_checks = ()

    def handle(self, *args: object, **options: object) -> None:
        model_dir: Path = settings.MODEL_DIR
        try:
            prepare(model_dir, progress=self._say)
        except WeightsMissingError as error:
            self._say(f"{error} Note: semantic search is off: keyword search only.")
        except WeightsError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"The model cannot be written to {model_dir}: {error}.") from error

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
