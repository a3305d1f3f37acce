"""Per-user API keys."""

from django.apps import AppConfig


class ApikeysConfig(AppConfig):
    name = "apikeys"
