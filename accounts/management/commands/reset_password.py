"""Sets a new password for an account, from the server's command line."""

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.services import reset_password
from core.errors import Mem0dashError


class Command(BaseCommand):
    help = "Gives an account a new password and ends all of its sessions."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--password", help="asked for when left out")

    def handle(self, *args: Any, email: str, password: str | None, **options: Any) -> None:
        try:
            reset_password(email=email, password=password or getpass.getpass("New password: "))
        except Mem0dashError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{email} has a new password; all its sessions are signed out.")
