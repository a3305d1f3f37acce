"""Makes an API key from the command line."""

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts.models import Account, Project
from apikeys.services import LIMITABLE, create_api_key
from core.errors import Mem0dashError
from core.principal import Scope

MOST_DAYS = 36_500


class Command(BaseCommand):
    help = "Makes an API key and shows it once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email", help="the account that the key acts as")
        parser.add_argument("--label", required=True, help="what the key is for")
        parser.add_argument("--project", default="default", help="slug of the project")
        parser.add_argument(
            "--scope", action="append", choices=[*Scope], help="may be repeated; read and write"
        )
        parser.add_argument("--days", type=int, default=90, help="it ends after DAYS; 0: never")
        for name in LIMITABLE:
            option = f"--only-{name.replace('_', '-')}"
            parser.add_argument(option, action="append", help=f"limit it to this {name}")
        parser.add_argument("--json", action="store_true", help="print JSON on the last line")

    def handle(self, *args: Any, **options: Any) -> None:
        owner = Account.objects.filter(email=options["email"].strip().lower()).first()
        project = Project.objects.filter(slug=options["project"]).first()
        if owner is None:
            raise CommandError(f"There is no account with the address {options['email']}.")
        if project is None:
            raise CommandError(f"There is no project {options['project']!r}.")
        if not 0 <= options["days"] <= MOST_DAYS:
            raise CommandError(f"--days must be between 0 and {MOST_DAYS}.")
        limit = {n: options[f"only_{n}"] for n in LIMITABLE if options[f"only_{n}"]}
        days = options["days"]
        try:
            row, key = create_api_key(
                owner=owner,
                project=project,
                label=options["label"],
                scopes=[Scope(name) for name in options["scope"] or (Scope.READ, Scope.WRITE)],
                expires_at=timezone.now() + timedelta(days=days) if days else None,
                entity_limit=limit or None,
            )
        except Mem0dashError as error:
            raise CommandError(error.message) from error
        if options["json"]:
            self.stdout.write(json.dumps({"id": str(row.id), "api_key": key}))
        else:
            self.stdout.write(f"{row.label}, shown once:\n{key}")
