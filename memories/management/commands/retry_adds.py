"""Tries failed adds again, with the inputs that were kept of them."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from accounts.queries import operator_of
from core.errors import Mem0dashError, ProviderError
from memories.adding import service as adding
from memories.management.running import writing


class Command(BaseCommand):
    help = "Tries failed adds again; their inputs are kept for 30 days."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", default="default", help="its slug")
        parser.add_argument("--id", action="append", type=UUID, help="only this add; repeatable")
        parser.add_argument("--list", action="store_true", help="only show what failed, and why")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            operator = operator_of(options["project"])
            failed = adding.failed_adds(operator)
        except Mem0dashError as error:
            raise CommandError(error.message) from error
        ids = options["id"] or [add_input.id for add_input in failed]
        if options["list"]:
            failed = [add_input for add_input in failed if add_input.id in ids]
            for add_input in failed:
                when = f"{add_input.created_at:%Y-%m-%d %H:%M}"
                self.stdout.write(
                    f"{add_input.id}  {when}  {add_input.reason} {add_input.cause}".rstrip()
                )
            self.stdout.write(f"{len(failed)} failed adds.")
            return
        stored = 0
        with writing():
            for input_id in ids:
                stored += self._retry(operator, input_id)
        self.stdout.write(f"{stored} of {len(ids)} adds went well.")
        if stored < len(ids):
            raise CommandError("Some failed again; their inputs are kept.")

    def _retry(self, operator: Any, input_id: UUID) -> bool:
        try:
            result = adding.retry_add(operator, input_id)
        except Mem0dashError as error:
            cause = error.cause if isinstance(error, ProviderError) else ""
            self.stderr.write(f"{input_id}: {error.message} {cause}".rstrip())
            return False
        self.stdout.write(f"{input_id}: {len(result.results)} memories")
        return True
