"""Looking after the running service."""

from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "operations"
