"""Accounts, projects and memberships."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        post_migrate.connect(_ensure_instance, sender=self)


def _ensure_instance(**kwargs: Any) -> None:
    from accounts.services import ensure_instance

    ensure_instance(using=kwargs["using"])
