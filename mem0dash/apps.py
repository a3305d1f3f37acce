"""The composition root as an application: it brings the commands `serve`, `worker` and others."""

from django.apps import AppConfig


class Mem0dashConfig(AppConfig):
    name = "mem0dash"

    def ready(self) -> None:
        from mem0dash import checks  # noqa: F401  (checks register)
