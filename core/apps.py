"""The foundation as an application, which provides the template tags."""

from django.apps import AppConfig


class CoreConfig(AppConfig):
    name = "core"

    def ready(self) -> None:
        from django.db.backends.signals import connection_created

        from core import outbound
        from core.database import schema_version

        outbound.install()
        connection_created.connect(
            schema_version.check_server, dispatch_uid="mem0dash.schema_version"
        )
