"""Ends an API key from the command line."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apikeys.models import ApiKey
from apikeys.services import revoke_api_key
from mem0dash.errors import Mem0dashError


class Command(BaseCommand):
    help = "Ends an API key at once; --list shows all of them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix", nargs="?", help="the key's first 12 characters")
        parser.add_argument("--list", action="store_true", help="show the keys, change nothing")

    def handle(self, *args: Any, prefix: str | None, **options: Any) -> None:
        if options["list"]:
            self._list()
            return
        if not prefix:
            raise CommandError("Name the key by its first 12 characters, or use --list.")
        keys = list(ApiKey.objects.select_related("owner").filter(prefix=prefix[:12]))
        if len(keys) != 1:
            raise CommandError(f"{len(keys)} keys begin with {prefix[:12]!r}.")
        try:
            revoke_api_key(key_id=keys[0].id, owner=keys[0].owner)
        except Mem0dashError as error:
            raise CommandError("This key is revoked already.") from error
        self.stdout.write(f"{keys[0]} is revoked.")

    def _list(self) -> None:
        for key in ApiKey.objects.select_related("owner", "project").order_by("created_at"):
            state = "revoked" if key.revoked_at else "live"
            used = key.last_used_at.isoformat(timespec="minutes") if key.last_used_at else "never"
            scopes = " ".join(key.scopes)
            self.stdout.write(
                f"{key.prefix}…{key.last4}  {state}  {key.owner.email}  {key.project.slug}  "
                f"{scopes}  used {used}  {key.label}"
            )
