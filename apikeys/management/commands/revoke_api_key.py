"""Ends an API key from the command line, with everything that it made."""

from argparse import ArgumentParser
from typing import Any, Final, get_args

from django.core.management.base import BaseCommand, CommandError

from accounts.models import Account
from apikeys.models import ApiKey
from apikeys.services import revoke_api_key, revoke_made_via
from core.errors import Mem0dashError
from core.principal import Via

VIA: Final[tuple[Via, ...]] = get_args(Via)


class Command(BaseCommand):
    help = "Ends an API key and all keys that it made at once; --list shows all keys."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix", nargs="?", help="the key's first 12 characters")
        parser.add_argument("--list", action="store_true", help="show the keys, change nothing")
        parser.add_argument(
            "--made-via",
            choices=VIA,
            help="end all keys made by this kind of caller, such as session or admin_api_key",
        )
        parser.add_argument("--owner", help="with --made-via: the keys of this account alone")

    def handle(self, *args: Any, prefix: str | None, **options: Any) -> None:
        via, owner = options["made_via"], options["owner"]
        if options["list"]:
            self._list()
        elif (via and prefix is not None) or (owner is not None and not via):
            # Ignoring one of them would revoke more keys than intended.
            raise CommandError("Name a key, or --made-via, which --owner goes with; and not both.")
        elif via:
            self._end_made_via(via, owner)
        elif prefix:
            self._end(prefix)
        else:
            raise CommandError("Name the key by its first 12 characters, or use --list.")

    def _end(self, prefix: str) -> None:
        keys = list(ApiKey.objects.select_related("owner").filter(prefix=prefix[:12]))
        if len(keys) != 1:
            raise CommandError(f"{len(keys)} keys begin with {prefix[:12]!r}.")
        try:
            ended = revoke_api_key(key_id=keys[0].id, owner=keys[0].owner)
        except Mem0dashError as error:
            raise CommandError("This key is revoked already.") from error
        more = f", with {ended - 1} that it made" if ended > 1 else ""
        self.stdout.write(f"{keys[0]} is revoked{more}.")

    def _end_made_via(self, via: Via, email: str | None) -> None:
        owner = None
        if email is not None:
            owner = Account.objects.filter(email=email.strip().lower()).first()
            if owner is None:
                raise CommandError(f"There is no account with the address {email}.")
        ended = revoke_made_via(via, owner=owner)
        self.stdout.write(f"{ended} keys are revoked.")

    def _list(self) -> None:
        keys = list(ApiKey.objects.select_related("owner", "project").order_by("created_at"))
        prefixes = {key.id: key.prefix for key in keys}
        for key in keys:
            state = "revoked" if key.revoked_at else "live"
            last_used = (
                key.last_used_at.isoformat(timespec="minutes") if key.last_used_at else "never"
            )
            scopes = " ".join(key.scopes)
            via = key.made_via or "command line"
            maker = prefixes.get(key.made_by, via) if key.made_by else via
            self.stdout.write(
                f"{key.prefix}…{key.last4}  {state}  {key.owner.email}  {key.project.slug}  "
                f"{scopes}  used {last_used}  made by {maker}  {key.label}"
            )
