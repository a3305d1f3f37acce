"""Moves everything into another database: from the embedded form to PostgreSQL, or back."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from mem0dash.management import copying
from mem0dash.management.copying import CopyError, TableDigest

SOURCE: Final = "source"
TARGET: Final = "target"


class Command(BaseCommand):
    help = (
        "Copies every row of the database in DATABASE_URL into another, empty one, or from another "
        "one into it. All or nothing: an interrupted copy is simply begun again. "
        "All servers and workers have to be stopped."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        way = parser.add_mutually_exclusive_group(required=True)
        way.add_argument("--to", metavar="URL", help="copy DATABASE_URL to this database")
        way.add_argument("--from", metavar="URL", dest="origin", help="copy it to DATABASE_URL")
        parser.add_argument(
            "--ignore-connections",
            action="store_true",
            help="copy although others are connected to the PostgreSQL server's source database",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            copying.register(SOURCE, options["origin"])
            copying.register(TARGET, options["to"])
            self._check_ends()
            copying.check_source(SOURCE, ignore_connections=options["ignore_connections"])
            copying.prepare_target(TARGET)
            copied = copying.copy(SOURCE, TARGET, self._say)
        except CopyError as error:
            raise CommandError(str(error)) from error
        finally:
            for alias in {SOURCE, TARGET} & set(connections.settings):
                connections[alias].close()
        self._say_next(copied, to=bool(options["to"]))

    @staticmethod
    def _check_ends() -> None:
        source, target = (connections.settings[alias] for alias in (SOURCE, TARGET))
        if all(str(source[key]) == str(target[key]) for key in ("ENGINE", "HOST", "PORT", "NAME")):
            raise CopyError("Source and target are the same database.")
        folders = {settings.DATA_DIR / "index"}
        for end in (source, target):
            if end["ENGINE"].endswith("sqlite3"):
                folders.add(Path(end["NAME"]).resolve().parent / "index")
        if source["ENGINE"].endswith("sqlite3") and not Path(source["NAME"]).is_file():
            raise CopyError(f"There is no database {source['NAME']}.")
        for folder in folders:
            check_stopped(folder)

    def _say(self, table: TableDigest) -> None:
        self.stdout.write(f"{table.rows:>10,}  {table.name}")
        self.stdout.flush()

    def _say_next(self, copied: list[TableDigest], *, to: bool) -> None:
        total = sum(table.rows for table in copied)
        where = "Set DATABASE_URL to the target" if to else "DATABASE_URL is the target"
        self.stdout.write(
            f"{total:,} rows are copied, read again and found to be the same.\n"
            f"Next: {where}; for the distributed form set QDRANT_URL as well. Keep SECRET_KEY,\n"
            "ENCRYPTION_KEY and JWT_SECRET, or the files of these names in the data directory.\n"
            "Then start: the index is built from the database, searches answer once it is there.\n"
            "The source is as it was: do not start a server on it, what it takes is not here."
        )


def check_stopped(root: Path) -> None:
    """CopyError when a server has the embedded index below `root` open."""
    from memories.index.folder import is_held

    if is_held(root):
        raise CopyError(
            f"The index in {root} is in use. If a server uses it, stop it: what it takes would be "
            "left behind."
        )
