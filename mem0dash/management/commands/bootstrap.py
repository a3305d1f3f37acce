"""Headless set-up: the instance owner and a first key, from the command line."""

import getpass
import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from accounts.models import Project
from accounts.queries import DEFAULT_PROJECT
from accounts.services import complete_setup, create_owner
from apikeys.services import create_api_key
from core.errors import Mem0dashError
from mem0dash.migration import prepare_database


class Command(BaseCommand):
    help = "Makes the instance owner and a first API key, and closes set-up for ever."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True)
        parser.add_argument("--name", default="")
        parser.add_argument("--password", help="asked for when left out")
        parser.add_argument("--json", action="store_true", help="print JSON on the last line")

    def handle(self, *args: Any, **options: Any) -> None:
        prepare_database()
        password = options["password"] or getpass.getpass("Password: ")
        try:
            with transaction.atomic():
                owner = create_owner(
                    email=options["email"], name=options["name"], password=password
                )
                project = Project.objects.get(slug=DEFAULT_PROJECT)
                _, key = create_api_key(owner=owner, project=project, label="First key")
                complete_setup()
        except Mem0dashError as error:
            raise CommandError(error.message) from error
        base_url = settings.PUBLIC_URL or f"http://{settings.HOST}:{settings.PORT}"
        if not options["json"]:
            self.stdout.write(
                f"{owner.email} owns this instance. The first key, shown once:\n{key}"
            )
            return
        answer = {
            "email": owner.email,
            "api_key": key,
            "project": project.slug,
            "base_url": base_url,
        }
        self.stdout.write(json.dumps(answer))
