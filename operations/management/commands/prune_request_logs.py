"""Deletes old rows of the request log; the running server does so by itself every hour."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from operations.request_log import prune


class Command(BaseCommand):
    help = "Deletes rows of the request log that are older than REQUEST_LOG_RETENTION_DAYS."

    def handle(self, *args: Any, **options: Any) -> None:
        days = settings.REQUEST_LOG_RETENTION_DAYS
        self.stdout.write(f"{prune():,} requests older than {days} days are deleted.")
