"""Per-user API keys."""

from django.apps import AppConfig


class ApikeysConfig(AppConfig):
    name = "apikeys"

    def ready(self) -> None:
        from apikeys import schema  # noqa: F401  (importing registers it)
