"""The composition root as an application: it brings the commands `serve` and `bootstrap`."""

from django.apps import AppConfig


class Mem0dashConfig(AppConfig):
    name = "mem0dash"

    def ready(self) -> None:
        from django.db.backends.signals import connection_created

        from core import outbound  # noqa: F401  (checks register)
        from core.database import schema_version  # noqa: F401  (checks register)
        from mem0dash import checks  # noqa: F401  (checks register)

        outbound.install()
        connection_created.connect(
            schema_version.check_server, dispatch_uid="mem0dash.schema_version"
        )
