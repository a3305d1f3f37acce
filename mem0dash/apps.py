"""The composition root as an application: it brings the commands `serve` and `bootstrap`."""

from django.apps import AppConfig


class Mem0dashConfig(AppConfig):
    name = "mem0dash"

    def ready(self) -> None:
        from mem0dash import checks, outbound  # noqa: F401  (importing registers the checks)

        outbound.install()
