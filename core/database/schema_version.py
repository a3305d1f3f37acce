"""Refuses a database that a newer version of the server has changed."""

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from django.apps import apps
from django.db import connections

from core.env import ConfigurationError
from core.version import VERSION

_checked: set[str] = set()


def refuse_newer(applied: Iterable[tuple[str, str]], database: str) -> None:
    """ConfigurationError if one of the applied migrations (app, name) belongs to an installed
    application that does not know it."""
    for app, name in sorted(applied, reverse=True):
        package = _package(app)
        names = (
            {module.name for module in pkgutil.iter_modules(package.__path__)} if package else ()
        )
        # An application without migrations, or one that is not installed, proves nothing.
        if names and name not in names and name not in _replaced(package, app, names):
            raise ConfigurationError(
                f"The database {database} was changed by a newer version, to {app}.{name}, and "
                f"this version ({VERSION}) knows {app} up to {max(names)}: start the newer "
                "version, or restore a backup from before the upgrade. Nothing was changed."
            )


def _package(label: str) -> Any:
    """The package of an application's migrations; None if it has none."""
    try:
        return import_module(f"{apps.get_app_config(label).name}.migrations")
    except (LookupError, ModuleNotFoundError):
        return None


def _replaced(package: Any, label: str, names: Iterable[str]) -> set[str]:
    """The migrations that squashed ones replace; a database may still name them."""
    migrations = [import_module(f"{package.__name__}.{name}").Migration for name in names]
    return {old for one in migrations for app, old in one.replaces if app == label}


def check_server(connection: Any, **kwargs: Any) -> None:
    """`refuse_newer` for a database server's database, at the first connection of a process.

    A SQLite file is checked before it is opened (core.database.sqlite3.files).
    """
    if connection.vendor == "sqlite" or connection.alias in _checked:
        return
    _checked.add(connection.alias)
    with connection.connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('django_migrations') IS NOT NULL")
        applied = []
        if cursor.fetchone()[0]:
            cursor.execute("SELECT app, name FROM django_migrations")
            applied = cursor.fetchall()
    try:
        refuse_newer(applied, str(connection.settings_dict["NAME"]))
    except ConfigurationError:
        _checked.discard(connection.alias)
        connections[connection.alias].close()
        raise
