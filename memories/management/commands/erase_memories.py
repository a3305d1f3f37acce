"""Erases memories for good: text, vector, kept input, and the texts in their history."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.queries import operator_of
from core.errors import Mem0dashError
from memories import queries, visibility
from memories.editing import service as editing
from memories.management.running import without_index
from memories.models import ENTITY_FIELDS


class Command(BaseCommand):
    help = "Erases memories for good; who did what and when stays in the history."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("ids", nargs="*", help="ids of memories, deleted ones included")
        for name in ENTITY_FIELDS:
            parser.add_argument(f"--{name.replace('_', '-')}", help=f"everything of this {name}")
        parser.add_argument("--project", default="default", help="slug of the project")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        entities = {name: options[name] for name in ENTITY_FIELDS if options[name] is not None}
        for name, value in entities.items():
            # Left out, an empty one would erase more than was asked for.
            if not value.strip():
                option = f"--{name.replace('_', '-')}"
                raise CommandError(f"{option} is empty. Name it, or leave it out.")
        if bool(options["ids"]) == bool(entities):
            raise CommandError("Name ids, or an entity such as --user-id, and not both.")
        try:
            caller = operator_of(options["project"])
            ids = [visibility.as_uuid(id_) for id_ in options["ids"]]
            ids = ids or queries.ids_of_entities(caller, entities)
            if ids and not options["yes"] and not self._confirmed(len(ids)):
                raise CommandError("Nothing was erased.")
            with without_index():
                count = editing.erase_memories(caller, ids)
        except Mem0dashError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{count:,} memories are erased.")

    def _confirmed(self, count: int) -> bool:
        self.stdout.write(f"This erases {count:,} memories for good. Type the number to go on: ")
        return input().strip().replace(",", "") == str(count)
