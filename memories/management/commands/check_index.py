"""Compares the search index with the database, point by point."""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from core.errors import ConflictError, IndexInUseError, IndexUnavailableError
from memories.index.indexer import Indexer
from memories.index.opening import open_indexer
from memories.index.rows import filter_pending
from memories.models.server import IndexState

SHOWN = 10


class Command(BaseCommand):
    help = "Says where the search index and the database differ; exit status 1 if they do."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--repair", action="store_true", help="apply again what differs")

    def handle(self, *args: Any, **options: Any) -> None:
        state = IndexState.objects.first()
        if state is None:
            raise CommandError("There is no index yet: the first start of the server makes it.")
        try:
            indexer = open_indexer(state.model_key, state.dims)
        except IndexInUseError as error:
            raise CommandError(
                "The running server has the index open. To compare it with the database, stop the "
                "server and run check_index again. rebuild_index works while the server runs."
            ) from error
        except IndexUnavailableError as error:
            raise CommandError(error.message) from error
        try:
            self._check(indexer, repair=options["repair"])
        except (ConflictError, IndexUnavailableError) as error:
            raise CommandError(f"The index cannot be compared: {error.message}") from error
        finally:
            indexer.close()

    def _check(self, indexer: Indexer, *, repair: bool) -> None:
        if indexer.problem:
            raise CommandError(indexer.problem)
        if not indexer.complete:
            if not repair:
                raise CommandError("The index is not built; --repair or a running server does it.")
            count = indexer.rebuild()
            self.stdout.write(f"The index was not built; it now holds {count:,} memories.")
            return
        differences = indexer.differences()
        pending = filter_pending().count()
        self.stdout.write(
            f"{differences.compared:,} points compared with the database; "
            f"{pending:,} changes are on their way."
        )
        self._show("missing", differences.missing)
        self._show("of another revision", differences.stale)
        self._show("of memories that are gone", differences.ghosts)
        if not differences.all:
            self.stdout.write(
                "Nothing differs but what is on its way; run this again when the index has it."
                if pending
                else "The index and the database are the same."
            )
            return
        if not repair:
            raise CommandError(
                f"{len(differences.all):,} points differ; --repair applies them again."
            )
        indexer.repair(differences)
        remaining = indexer.differences().all
        if remaining:
            raise CommandError(
                f"{len(remaining):,} points still differ: rebuild_index builds it anew."
            )
        self.stdout.write(f"{len(differences.all):,} points are repaired.")

    def _show(self, what: str, ids: Sequence[UUID]) -> None:
        if ids:
            some = ", ".join(str(id_) for id_ in ids[:SHOWN])
            more = ", …" if len(ids) > SHOWN else ""
            self.stdout.write(f"{len(ids):,} {what}: {some}{more}")
