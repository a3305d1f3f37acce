"""Brings deleted memories back, as long as their project keeps them."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts.queries import operator_of
from core.errors import Mem0dashError
from memories import queries, visibility
from memories.editing import service as editing
from memories.management.running import without_index

MOST_HOURS = 24 * 36_500


class Command(BaseCommand):
    help = "Brings deleted memories back with text, metadata, vector and history."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("ids", nargs="*", help="ids of deleted memories")
        parser.add_argument("--hours", type=float, help="everything deleted in the last HOURS")
        parser.add_argument("--project", default="default", help="slug of the project")
        parser.add_argument("--dry-run", action="store_true", help="say how many, change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        if bool(options["ids"]) == (options["hours"] is not None):
            raise CommandError("Name ids, or --hours, and not both.")
        if options["hours"] is not None and not 0 < options["hours"] <= MOST_HOURS:
            raise CommandError(f"--hours must be above 0, and at most {MOST_HOURS:,}.")
        try:
            caller = operator_of(options["project"])
            ids = [visibility.as_uuid(id_) for id_ in options["ids"]]
            if options["hours"] is not None:
                since = timezone.now() - timedelta(hours=options["hours"])
                ids = queries.ids_deleted_since(caller, since)
            if not options["dry_run"]:
                with without_index():
                    editing.restore_memories(caller, ids)
        except Mem0dashError as error:
            raise CommandError(error.message) from error
        verb = "would be" if options["dry_run"] else "are"
        self.stdout.write(f"{len(ids):,} memories {verb} restored.")
