"""Deactivates an account, or reactivates it, from the server's command line."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.services import set_active
from core.errors import Mem0dashError


class Command(BaseCommand):
    help = "Ends all sessions of an account and refuses its password and its keys."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--undo", action="store_true", help="let the account in again")

    def handle(self, *args: Any, email: str, undo: bool, **options: Any) -> None:
        try:
            set_active(email=email, active=undo)
        except Mem0dashError as error:
            raise CommandError(error.message) from error
        state = "may sign in again" if undo else "is deactivated, with its sessions and keys"
        self.stdout.write(f"{email} {state}.")
