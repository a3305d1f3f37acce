"""Fills an empty project with sample data, and takes it away again."""

import time
from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from accounts.queries import operator_of
from core.errors import IndexUnavailableError, Mem0dashError, ProviderError
from core.principal import Principal
from memories.demo import service as demo
from memories.management.running import without_index, writing

# A server brings its index to disk every 20 seconds.
WAIT_SECONDS: Final = 60
POLL_SECONDS: Final = 0.5


class Command(BaseCommand):
    help = (
        'Fills an empty project with sample data, each memory marked "demo": true in its metadata; '
        "--remove takes exactly these away for good."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", default="default", help="slug of the project")
        parser.add_argument("--remove", action="store_true", help="take the sample data away")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            operator = operator_of(options["project"])
            if options["remove"]:
                self._remove(operator)
            else:
                self._fill(operator)
        except Mem0dashError as error:
            cause = error.cause if isinstance(error, ProviderError) else ""
            raise CommandError(f"{error.message} {cause}".strip()) from error

    def _fill(self, operator: Principal) -> None:
        with writing():
            count = demo.fill_project(operator)
        slug = operator.project.slug
        self.stdout.write(
            f"{count:,} sample memories are in project {slug!r}, each with "
            f'"demo": true in its metadata. manage.py demo --remove takes them away.'
        )

    def _remove(self, operator: Principal) -> None:
        with without_index():
            count = demo.remove_demo(operator)
        remaining = demo.drop_emptied(operator) and self._left_after_index(operator)
        if not count:
            self.stdout.write(f"There is no sample data in project {operator.project.slug!r}.")
            return
        self.stdout.write(f"{count:,} sample memories are removed for good.")
        if remaining:
            self.stdout.write(
                f"The index has not let go of {remaining:,} yet. Their texts are gone; "
                "their empty rows go with the next purge of the server."
            )

    def _left_after_index(self, operator: Principal) -> int:
        """Waits until the index has let go; how many empty rows it still holds after that."""
        try:
            demo.drop_from_index(operator)
        except IndexUnavailableError:
            self.stdout.write("The server takes them out of its index now.")
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
            if not demo.drop_emptied(operator):
                return 0
            time.sleep(POLL_SECONDS)
        return demo.drop_emptied(operator)
