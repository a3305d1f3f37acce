"""The request log, health and metrics of the running service."""

from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "operations"
