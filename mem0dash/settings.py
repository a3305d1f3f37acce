"""Django settings: the environment is read here, and nowhere else."""

import ipaddress
import os
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import dj_database_url
from cryptography.fernet import Fernet

from core import env, first_start, folders, zones
from core.database import engines
from core.env import ConfigurationError
from core.http import hosts
from core.version import VERSION
from memories.engine.catalogue import PROVIDERS, SDK_VARIABLES

# mem0 reads both when it is first imported: no telemetry, no files in the home directory.
os.environ["MEM0_TELEMETRY"] = "False"
# numpy reads it when it is first imported: with threads of its own for each small product, it takes
# twice the CPU to read the tokens of a text, and the server's threads use the cores already.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.text("MEM0DASH_DATA_DIR", str(BASE_DIR / "data"))).expanduser().resolve()
# What people tell their agents is private: every file that this process makes is its user's alone,
# the database's and the index's too. Here, for every way to start reads the settings first.
os.umask(0o077)
try:
    DATA_DIR.mkdir(parents=True, exist_ok=True)
except OSError as _error:
    raise ConfigurationError(
        f"MEM0DASH_DATA_DIR: {folders.unmakeable(DATA_DIR, _error)}"
    ) from _error
if _why := folders.unwritable(DATA_DIR):
    raise ConfigurationError(f"MEM0DASH_DATA_DIR: {_why}")
MODEL_DIR = Path(env.text("MEM0DASH_MODEL_DIR", str(DATA_DIR / "models"))).expanduser().resolve()
os.environ["MEM0_DIR"] = str(DATA_DIR / "mem0")

HOST = env.text("HOST", "127.0.0.1")
PORT = env.integer("PORT", 8000, low=0, high=65535)
DEBUG = False

# --- Database ------------------------------------------------------------------------------------
# Where SQLite's database is; None for PostgreSQL.
DATABASE_FILE: Path | None = None
try:
    _database = dj_database_url.parse(
        env.text("DATABASE_URL", f"sqlite:///{DATA_DIR / 'mem0dash.sqlite3'}"),
        conn_max_age=None,
        conn_health_checks=True,
    )
except (ValueError, KeyError) as _error:
    raise ConfigurationError(
        "DATABASE_URL must look like postgres://user:password@host:5432/name "
        "or sqlite:////path/to/file."
    ) from _error
_is_postgresql = _database["ENGINE"] == "django.db.backends.postgresql"
if _database["ENGINE"] == "django.db.backends.sqlite3":
    if _database["NAME"] in {"", ":memory:"}:
        raise ConfigurationError("DATABASE_URL must name a file, such as sqlite:////path/to/file.")
    _database["CONN_HEALTH_CHECKS"] = False
    DATABASE_FILE = Path(_database["NAME"]).expanduser().resolve()
    _database["OPTIONS"] = {
        # Seconds that a write waits for another program; then it is refused as busy.
        "timeout": 10,
        "transaction_mode": "IMMEDIATE",
        # FULL: an acknowledged memory survives a power cut, not only a killed process. The log is
        # cut down to 8 MiB when it begins again: it keeps the size of the busiest hour otherwise.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "PRAGMA cache_size=-4000; PRAGMA journal_size_limit=8388608;",
    }
    if _why := folders.unusable_database(DATABASE_FILE):
        raise ConfigurationError(f"DATABASE_URL: {_why}")
    if folders.is_read_only_file(DATABASE_FILE):
        # A disk that can only be read has no room for the journal's shared memory. Where a journal
        # is left from before, SQLite has to read it, and says so where it cannot.
        _journal = DATABASE_FILE.with_name(f"{DATABASE_FILE.name}-wal")
        _how = "mode=ro" if _journal.exists() else "mode=ro&immutable=1"
        _database["NAME"] = f"file:{quote(str(DATABASE_FILE))}?{_how}"
        _database["OPTIONS"]["init_command"] = "PRAGMA cache_size=-4000;"
elif _is_postgresql:
    # Seconds, and milliseconds: a machine that is away, and says nothing, is given up on.
    _database["OPTIONS"] = {
        "connect_timeout": 5,
        "tcp_user_timeout": 10_000,
        **_database.get("OPTIONS", {}),
    }
else:
    raise ConfigurationError("DATABASE_URL must name a SQLite or a PostgreSQL database.")

# --- Secrets -------------------------------------------------------------------------------------
# Before the others. Where the database was set up and the key is gone, no file is written at all: a
# new key would open nothing. What needs it refuses with this sentence; "" where all is well.
_encryption_key = DATA_DIR / "encryption_key"
ENCRYPTION_KEY_LOST = ""
if not env.text("ENCRYPTION_KEY"):
    ENCRYPTION_KEY_LOST = first_start.lost_key(_database, DATABASE_FILE, _encryption_key)
_keep = not ENCRYPTION_KEY_LOST
ENCRYPTION_KEYS = env.parse_list(
    "ENCRYPTION_KEY",
    env.load_secret(
        "ENCRYPTION_KEY", _encryption_key, make=Fernet.generate_key().decode(), keep=_keep
    ),
) or [""]
for _key in ENCRYPTION_KEYS:
    try:
        Fernet(_key)
    except ValueError as _error:
        raise ConfigurationError(
            "ENCRYPTION_KEY must be 32 url-safe base64-encoded bytes (44 characters); "
            "several, newest first, are separated by commas."
        ) from _error
# A new one ends sessions and nothing else, as a new JWT_SECRET does: both may be made again.
SECRET_KEY = env.load_secret(
    "SECRET_KEY", DATA_DIR / "secret_key", make=secrets.token_urlsafe(50), keep=_keep
)
if len(SECRET_KEY) < 32:
    raise ConfigurationError("SECRET_KEY must have at least 32 characters.")
# Signs the session tokens of the REST dialects.
JWT_SECRET = env.load_secret(
    "JWT_SECRET", DATA_DIR / "jwt_secret", make=secrets.token_urlsafe(50), keep=_keep
)
if len(JWT_SECRET) < 32:
    raise ConfigurationError("JWT_SECRET must have at least 32 characters.")
# Required to register the first owner. accounts.setup makes one if this is not set.
SETUP_TOKEN = env.text("SETUP_TOKEN")
if SETUP_TOKEN and len(SETUP_TOKEN) < 16:
    raise ConfigurationError("SETUP_TOKEN must have at least 16 characters.")
# The first owner, for set-up without a browser.
OWNER_EMAIL = env.text("OWNER_EMAIL")
OWNER_NAME = env.text("OWNER_NAME")
OWNER_PASSWORD = env.text("OWNER_PASSWORD")
if bool(OWNER_EMAIL) != bool(OWNER_PASSWORD):
    raise ConfigurationError("OWNER_EMAIL and OWNER_PASSWORD are set together or not at all.")
ADMIN_API_KEY = env.text("ADMIN_API_KEY")
if ADMIN_API_KEY and len(ADMIN_API_KEY) < 16:
    raise ConfigurationError("ADMIN_API_KEY must have at least 16 characters.")
# The same under the name that mem0-server has for it.
MEM0_API_KEY = env.text("MEM0_API_KEY")
if re.fullmatch(r"m0sk_[A-Za-z0-9_-]{43}", MEM0_API_KEY):
    # A client's variable that strayed into the server's environment: that key is no more than what
    # it was made for.
    MEM0_API_KEY = ""
if MEM0_API_KEY and len(MEM0_API_KEY) < 16:
    raise ConfigurationError("MEM0_API_KEY must have at least 16 characters.")
AUTH_DISABLED = env.flag("AUTH_DISABLED")
# Failed authentications on /api/v1 from one address in so many seconds, before it has to wait;
# 0 for no limit. Attempts are kept for an hour (accounts.throttle).
RATE_LIMIT_AUTH_FAILURES = env.integer("RATE_LIMIT_AUTH_FAILURES", 10, low=0, high=100_000)
RATE_LIMIT_AUTH_WINDOW_SECONDS = env.integer("RATE_LIMIT_AUTH_WINDOW_SECONDS", 60, low=1, high=3600)
# The user id for calls in project Default that name no entity; the project may set another.
MEM0_DEFAULT_USER_ID = env.text("MEM0_DEFAULT_USER_ID")
if len(MEM0_DEFAULT_USER_ID) > 255 or re.search(r"\s", MEM0_DEFAULT_USER_ID):
    raise ConfigurationError("MEM0_DEFAULT_USER_ID must have at most 255 characters and no space.")
# The time zone of projects that have none of their own.
DEFAULT_TIME_ZONE = env.text("DEFAULT_TIME_ZONE", zones.UNIVERSAL)
if zones.find_zone(DEFAULT_TIME_ZONE) is None:
    raise ConfigurationError(
        "DEFAULT_TIME_ZONE must be an IANA time zone that this machine knows (package tzdata), "
        f"such as Europe/Berlin, not {DEFAULT_TIME_ZONE!r}."
    )

# --- Where it is reached -------------------------------------------------------------------------
PUBLIC_URL = env.text_of_either("PUBLIC_URL", "PUBLIC_BASE_URL").rstrip("/")
try:
    _public = urlsplit(PUBLIC_URL)
except ValueError:
    _public = urlsplit("unreadable:")
_is_address = _public.scheme in {"http", "https"} and (_public.hostname or "*")[0] not in "*."
# Anything beside a host, a port and a path would stand in the middle of every link.
_is_address &= not re.search(r"[?#@\s\\]|//|/\.\.?(/|$)", PUBLIC_URL.partition("://")[2])
if PUBLIC_URL and not _is_address:
    raise ConfigurationError(
        "PUBLIC_URL (or PUBLIC_BASE_URL) must look like https://memory.example.org, "
        f"not {PUBLIC_URL!r}."
    )
# The one other origin whose pages may call the API; "" for none.
DASHBOARD_ORIGIN = env.origin("DASHBOARD_URL")
# Origins beside this server's own whose pages may call /mcp, in a browser.
MCP_ALLOWED_ORIGINS = {
    *env.origins("MCP_ALLOWED_ORIGINS"),
    *([DASHBOARD_ORIGIN] if DASHBOARD_ORIGIN else []),
    *([f"{_public.scheme}://{_public.netloc}".lower()] if PUBLIC_URL else []),
}
# Hosts beside loopback and IP literals, which hosts.Hosts always accepts.
NAMED_HOSTS = [hosts.parse_host("ALLOWED_HOSTS", word) for word in env.list_of("ALLOWED_HOSTS")]
if _public.hostname:
    NAMED_HOSTS.append(hosts.parse_host("PUBLIC_URL", _public.hostname))
if "*" in NAMED_HOSTS and AUTH_DISABLED:
    raise ConfigurationError(
        "ALLOWED_HOSTS cannot be * while AUTH_DISABLED is set: any page that is open in a browser "
        "of this machine could read all memories."
    )
ALLOWED_HOSTS = ["*"]
TRUSTED_PROXIES = []
for _network in env.list_of("TRUSTED_PROXIES"):
    try:
        TRUSTED_PROXIES.append(ipaddress.ip_network(_network.strip("[]"), strict=False))
    except ValueError as _error:
        raise ConfigurationError(
            f"TRUSTED_PROXIES must list addresses or networks, not {_network!r}."
        ) from _error
# mem0-server believes whoever sends X-Forwarded-For; here TRUSTED_PROXIES names who may.
TRUST_FORWARDED_FOR = env.flag("TRUST_FORWARDED_FOR")
# These paths and those below may be called by pages of every origin, for no cookie counts there:
# MCP clients that run in a browser.
OPEN_PATHS = (
    "/.well-known/oauth-authorization-server",
    "/.well-known/oauth-protected-resource",
    *("/oauth/token", "/oauth/register", "/oauth/revoke"),
)
SECURE_HSTS_SECONDS = 31_536_000 if _public.scheme == "https" else 0
SECURE_REFERRER_POLICY = "same-origin"
SILENCED_SYSTEM_CHECKS = [
    "security.W002",  # framing is refused by middleware.RequestMiddleware, policy and header
    "security.W003",  # pages.PageCsrf guards the pages; no cookie lets a request into the API
    "security.W004",  # HSTS follows PUBLIC_URL's scheme
    "security.W008",  # TLS ends at the operator's proxy, which redirects
    "oauth2_provider.W008",  # oauth.redirects takes http on this very machine alone
    "security.W010",  # the cookies follow PUBLIC_URL's scheme as well
]
APPEND_SLASH = False
# The largest request body, in bytes; asgi.py answers 413 above it.
MAX_BODY_BYTES = 8 * 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# Bodies that the server holds at a time, in bytes beyond the first of each; 503 above it.
MAX_BODIES_BYTES = 96 * 1024 * 1024
# Connections at a time. Above it those go that have no request under way.
MAX_CONNECTIONS = env.integer("MAX_CONNECTIONS", 1000, low=10, high=20_000)
# Seconds in which a request's head has to be there, and its body, which with a credential may take
# longer as long as it comes; and in which somebody who gets an answer has to read on.
CLIENT_SECONDS = env.integer("CLIENT_SECONDS", 30, low=1, high=600)
# Seconds that requests have to end in when the server stops: shorter than what Docker gives it.
STOP_SECONDS = env.integer("STOP_SECONDS", 6, low=0, high=600)
# Threads that serve reads; threads.py has as many more for searches, and others in proportion.
THREADS = env.integer("THREADS", 16, low=2, high=128)
# As many more, made when needed, for requests that may wait for an LLM, and how many may queue for
# one of these; 503 above it.
WAITING_THREADS = env.integer("WAITING_THREADS", 32, low=2, high=256)
WAITING_QUEUE = env.integer("WAITING_QUEUE", 128, low=0, high=10_000)

# --- Pages ---------------------------------------------------------------------------------------
# These paths and those below are pages: with sessions, CSRF protection and errors as pages.
PAGE_PATHS = ("/dashboard", "/login", "/logout", "/setup", "/oauth/authorize")
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "dashboard:overview"
# The route of the setup wizard, to which every page leads until set-up is complete; "" for none.
SETUP_ROUTE = "setup:start"
# The path of PUBLIC_URL: below it pages link to each other. asgi.py takes it off where a proxy
# leaves it on, so that the server is also reached directly.
FORCE_SCRIPT_NAME = _public.path or None
_secure = _public.scheme == "https"
SESSION_COOKIE_NAME = "mem0dash_session"
SESSION_COOKIE_AGE = 14 * 86_400
CSRF_COOKIE_NAME = "mem0dash_csrf"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _secure
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = f"{_public.path}/"
CSRF_FAILURE_VIEW = "core.pages.answers.csrf_failure"
# Behind a proxy that ends TLS, requests look like plain HTTP here.
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"] if PUBLIC_URL else []
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

# --- Connections ---------------------------------------------------------------------------------
# PostgreSQL only. Without a pool every thread keeps a connection of its own.
DATABASE_POOL_SIZE = env.integer("DATABASE_POOL_SIZE", 0, low=0, high=1000)
if DATABASE_POOL_SIZE and _is_postgresql:
    _database["CONN_MAX_AGE"] = 0
    _database["OPTIONS"] = {
        **_database.get("OPTIONS", {}),
        "pool": {
            "min_size": min(4, DATABASE_POOL_SIZE),
            "max_size": DATABASE_POOL_SIZE,
            # While the database is away a request waits so long for its 502; afterwards the pool
            # tries again at once instead of ever more seldom.
            "timeout": 5.0,
            "reconnect_timeout": 2.0,
        },
    }
DATABASES: dict[str, dict[str, Any]] = {
    "default": {**_database, "ENGINE": engines.OWN[_database["ENGINE"]]}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Search index: embedded, or on a Qdrant server that several processes share ------------------
QDRANT_URL = env.text("QDRANT_URL").rstrip("/")
if not QDRANT_URL and (_host := env.text("QDRANT_HOST")):
    _scheme = "https" if env.flag("QDRANT_HTTPS") else "http"
    QDRANT_URL = f"{_scheme}://{_host}:{env.integer('QDRANT_PORT', 6333, low=1, high=65535)}"
try:
    _qdrant = urlsplit(QDRANT_URL)
    _qdrant_port = _qdrant.port
except ValueError:
    _qdrant = urlsplit("unreadable:")
_host = env.text("QDRANT_HOST").strip("[]").lower()
if _host and _qdrant.hostname and _qdrant.hostname != _host:
    raise ConfigurationError(
        "QDRANT_URL and QDRANT_HOST are both set and differ; keep one of them."
    )
if QDRANT_URL and (
    _qdrant.scheme not in {"http", "https"} or not _qdrant.hostname or _qdrant.query
):
    raise ConfigurationError("QDRANT_URL must look like http://qdrant:6333.")
if _qdrant.username or _qdrant.password:
    raise ConfigurationError("QDRANT_URL must hold no password; QDRANT_API_KEY is for that.")
if QDRANT_URL and not _is_postgresql:
    raise ConfigurationError(
        "QDRANT_URL is for several processes on one PostgreSQL database: set DATABASE_URL as well."
    )
QDRANT_API_KEY = env.text("QDRANT_API_KEY")
# It goes into a header, and a library that refuses a header quotes it.
if not (QDRANT_API_KEY.isascii() and (QDRANT_API_KEY + "x").isprintable()):
    raise ConfigurationError("QDRANT_API_KEY must be one line of ASCII characters.")
QDRANT_COLLECTION = env.text("QDRANT_COLLECTION", "mem0dash")
if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", QDRANT_COLLECTION):
    raise ConfigurationError("QDRANT_COLLECTION may hold letters, digits, '_', '.' and '-' only.")
# Seconds that a call to the Qdrant server may take.
QDRANT_TIMEOUT = env.integer("QDRANT_TIMEOUT", 10, low=1, high=300)
# For a cluster; 0 leaves it to the server.
QDRANT_REPLICATION_FACTOR = env.integer("QDRANT_REPLICATION_FACTOR", 0, low=0, high=100) or None
QDRANT_WRITE_CONSISTENCY_FACTOR = (
    env.integer("QDRANT_WRITE_CONSISTENCY_FACTOR", 0, low=0, high=100) or None
)
QDRANT_SHARD_NUMBER = env.integer("QDRANT_SHARD_NUMBER", 0, low=0, high=10_000) or None
# Vectors and fields on disk instead of in memory.
QDRANT_ON_DISK = env.flag("QDRANT_ON_DISK")

# --- Applications --------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "oauth2_provider",
    "core.apps.CoreConfig",
    "mem0dash.apps.Mem0dashConfig",
    "accounts.apps.AccountsConfig",
    "jobs.apps.JobsConfig",
    "apikeys.apps.ApikeysConfig",
    "oauth.apps.OauthConfig",
    "operations.apps.OperationsConfig",
    "memories.apps.MemoriesConfig",
    "dashboard.apps.DashboardConfig",
    "setup_wizard.apps.SetupWizardConfig",
]
MIDDLEWARE = [
    "core.http.middleware.RequestMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "core.http.middleware.HostMiddleware",
    "core.http.middleware.CorsMiddleware",
    "core.http.middleware.RefusalMiddleware",
    "apikeys.failures.FailureLimitMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    # For pages alone.
    "core.pages.answers.PageAnswers",
    "core.pages.answers.PageSession",
    "core.pages.answers.PageCsrf",
    "core.pages.answers.PageAuthentication",
    "core.pages.answers.PageMessages",
    "core.pages.answers.PageHtmx",
]
ROOT_URLCONF = "mem0dash.urls"
WSGI_APPLICATION = None
AUTH_USER_MODEL = "accounts.Account"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.messages.context_processors.messages",
                "dashboard.shell.shell",
            ],
        },
    }
]
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = None
# Files are served from where the packages put them: no collecting step to forget.
WHITENOISE_USE_FINDERS = True
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False

# What the health route asks: name -> callable that raises if the component is not healthy.
HEALTH_CHECKS = {
    "database": "operations.health.check_database",
    "index": "memories.runtime.check_index",
    "disk": "core.disk.check",
}
# The table that writes go to, which the health route asks a database server about.
HEALTH_TABLE = "memories_memory"
# Of these, the ones that are told only where something is wrong with them.
QUIET_HEALTH_CHECKS = frozenset({"disk"})

# Whether the health route tells everybody the version and each part, as it tells who has a key.
HEALTH_DETAILS = env.flag("HEALTH_DETAILS")
# Whether /metrics answers without a key of scope admin.
METRICS_PUBLIC = env.flag("METRICS_PUBLIC")
# Gauges among the metrics: name -> (what it tells, callable that gives the number). One that raises
# is left out.
METRICS_GAUGES = {
    "mem0dash_index_pending": (
        "Changes that the search index has not applied yet.",
        "memories.health.count_unindexed",
    ),
    "mem0dash_index_points": (
        "Memories in the search index, of all projects.",
        "memories.runtime.count_points",
    ),
    "mem0dash_disk_free_bytes": (
        "Free bytes where this process stores memories, for users other than root.",
        "core.disk.free_bytes",
    ),
}
# What counts every finished request, called as REQUEST_LOG is.
REQUEST_METRICS = "operations.metrics.count_request"

# The kinds of background jobs, as jobs.kinds.Kind describes them.
JOB_KINDS = [
    "jobs.tidying.TIDYING",
    "operations.pruning.PRUNING",
    "oauth.pruning.PRUNING",
    "memories.background.retention.RETENTION",
    "memories.background.retention.DROPPING",
    "memories.backfill.columns.FILLING",
]
# Long work with a state of its own, for the page of the jobs: name -> jobs.rows.JobSource.
JOB_SOURCES = {
    "bulk": "memories.views.long_work.BULK",
    "reembedding": "memories.views.long_work.REEMBEDDING",
    "late-interaction": "memories.views.long_work.TOKEN_STATES",
}
# Subscribers to events, as jobs.outbox.Subscriber describes them.
EVENT_SUBSCRIBERS: list[str] = []

# Makes the MCP server that /mcp serves.
MCP_SERVER = "memories.mcp.server.build"
# Called with each finished request, a core.http.finished.FinishedRequest.
REQUEST_LOG = "operations.request_log.log_request"
# Gives the labels of keys by their prefixes, for rooms that do not know keys.
KEY_LABELS = "apikeys.labels.labels_of"
REQUEST_LOG_RETENTION_DAYS = env.integer("REQUEST_LOG_RETENTION_DAYS", 30, low=1, high=3650)
# Days that audit entries are kept; 0 never deletes them.
AUDIT_RETENTION_DAYS = env.integer("AUDIT_RETENTION_DAYS", 365, low=0, high=36_500)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["apikeys.authentication.CredentialAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["apikeys.authentication.HasPrincipal"],
    "DEFAULT_PARSER_CLASSES": ["core.rest.json.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["core.rest.json.OrjsonRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "core.rest.json.AlwaysJson",
    "DEFAULT_SCHEMA_CLASS": "core.rest.document.QuerySchema",
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "mem0dash",
    "DESCRIPTION": "A memory server for AI agents.",
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "persistAuthorization": False},
    "COMPONENT_SPLIT_REQUEST": True,
    # The first is where the document was read from, behind whatever name: "Try it out" calls it.
    "SERVERS": (
        [{"url": f"{_public.path}/".rstrip("/") or "/"}, {"url": PUBLIC_URL}] if PUBLIC_URL else []
    ),
    "POSTPROCESSING_HOOKS": ["apikeys.schema.either_credential"],
}

# --- OAuth 2.1 -----------------------------------------------------------------------------------
# Whether apps may register themselves (RFC 7591), and be known by a document of theirs (CIMD).
OAUTH_REGISTRATION = env.flag("OAUTH_REGISTRATION", default=True)
OAUTH_CLIENT_DOCUMENTS = env.flag("OAUTH_CLIENT_DOCUMENTS", default=True)
# The hosts of these documents, ".example.org" for all below one; empty for every host.
OAUTH_CLIENT_DOCUMENT_HOSTS = env.list_of("OAUTH_CLIENT_DOCUMENT_HOSTS")
# Where apps may be sent back to, in mem0-server's grammar (oauth.redirects); empty for every place
# that OAuth allows.
OAUTH_ALLOWED_REDIRECT_URIS = env.list_of("OAUTH_ALLOWED_REDIRECT_URIS")
# Some clients never refresh, and ask the person again after so long.
OAUTH_ACCESS_TOKEN_SECONDS = env.integer(
    "OAUTH_ACCESS_TOKEN_SECONDS", 3600, low=300, high=7 * 86_400
)
# From one refresh to the next.
OAUTH_REFRESH_TOKEN_DAYS = env.integer("OAUTH_REFRESH_TOKEN_DAYS", 60, low=1, high=3650)
# Failures from one address in so many seconds, before it has to wait; 0 for no limit.
RATE_LIMIT_TOKEN_FAILURES = env.integer("RATE_LIMIT_TOKEN_FAILURES", 10, low=0, high=100_000)
RATE_LIMIT_TOKEN_WINDOW_SECONDS = env.integer(
    "RATE_LIMIT_TOKEN_WINDOW_SECONDS", 60, low=1, high=3600
)
RATE_LIMIT_CONSENT_FAILURES = env.integer("RATE_LIMIT_CONSENT_FAILURES", 5, low=0, high=100_000)
RATE_LIMIT_CONSENT_WINDOW_SECONDS = env.integer(
    "RATE_LIMIT_CONSENT_WINDOW_SECONDS", 300, low=1, high=3600
)
# What mem0-server needs and this server does not: tokens are random and stored with the rest.
OAUTH_UNNEEDED = [name for name in ("OAUTH_SIGNING_KEY", "OAUTH_DB_PATH") if env.text(name)]
OAUTH2_PROVIDER_APPLICATION_MODEL = "oauth.Application"
OAUTH2_PROVIDER_GRANT_MODEL = "oauth.AuthorizationCode"
OAUTH2_PROVIDER_ACCESS_TOKEN_MODEL = "oauth.AccessToken"  # noqa: S105  (no password)
OAUTH2_PROVIDER_REFRESH_TOKEN_MODEL = "oauth.RefreshToken"  # noqa: S105  (as that)
OAUTH2_PROVIDER_ID_TOKEN_MODEL = "oauth.IDToken"  # noqa: S105  (as that)
OAUTH2_PROVIDER: dict[str, Any] = {
    "OAUTH2_VALIDATOR_CLASS": "oauth.validator.Validator",
    "OAUTH2_BACKEND_CLASS": "oauth.backend.Backend",
    "SCOPES": {
        "memory:read": "Search and read memories",
        "memory:write": "Add, change and delete memories",
        "memory:review": "Review memories",
    },
    "DEFAULT_SCOPES": ["memory:read", "memory:write"],
    "OIDC_ENABLED": False,
    # The issuer; without it, what the request came by.
    "OIDC_ISS_ENDPOINT": PUBLIC_URL,
    # oauth.documents fetches what describes an app, and oauth.registration registers it.
    "CIMD_ENABLED": False,
    "DCR_ENABLED": False,
    "ACCESS_TOKEN_GENERATOR": "oauth.tokens.make_access_token",
    "REFRESH_TOKEN_GENERATOR": "oauth.tokens.make_refresh_token",
    "ACCESS_TOKEN_EXPIRE_SECONDS": OAUTH_ACCESS_TOKEN_SECONDS,
    "REFRESH_TOKEN_EXPIRE_SECONDS": OAUTH_REFRESH_TOKEN_DAYS * 86_400,
    "AUTHORIZATION_CODE_EXPIRE_SECONDS": 120,
    "REFRESH_TOKEN_REUSE_PROTECTION": True,
    "ALLOW_LOCALHOST_LOOPBACK": True,
    **{
        f"COMPLIANT_BCP_RFC9700_{gate}": True
        for gate in (
            *("IMPLICIT_GRANT", "PASSWORD_GRANT", "PKCE_METHOD", "ACCESS_TOKEN_TRANSPORT"),
            *("AUTHZ_RESPONSE_ISS", "TOKEN_STORAGE", "REFRESH_TOKEN"),
        )
    },
}

# --- Memory engine -------------------------------------------------------------------------------
# Loads what turns texts into vectors, or gives None for keyword search only.
EMBEDDER_LOADER = "memories.engine.local_embedder.load_embedder"
# Whether the states of tokens are kept and compared, unless the settings page says otherwise.
LATE_INTERACTION = env.flag("LATE_INTERACTION", default=True)

# --- Providers -----------------------------------------------------------------------------------
# What the environment says about them. Taken out of it: the SDKs read it by themselves, and would
# send a key to an address that it was not meant for.
PROVIDER_ENVIRONMENT = env.take_out(
    "MEM0_LLM_PROVIDER",
    "MEM0_LLM_MODEL",
    "MEM0_DEFAULT_LLM_MODEL",
    "MEM0_FALLBACK_LLM_PROVIDER",
    "MEM0_FALLBACK_LLM_MODEL",
    "MEM0_EMBED_PROVIDER",
    "MEM0_EMBED_MODEL",
    "MEM0_DEFAULT_EMBEDDER_MODEL",
    "MEM0_EMBED_DIMS",
    "LLM_AZURE_DEPLOYMENT",
    "LLM_AZURE_API_VERSION",
    "EMBEDDING_AZURE_DEPLOYMENT",
    "EMBEDDING_AZURE_API_VERSION",
    "OPENROUTER_API_KEY",
    "OPENROUTER_API_BASE",
    *(name for provider in PROVIDERS.values() for name in provider.variables),
    *(name for provider in PROVIDERS.values() for name in provider.address_variables),
    *SDK_VARIABLES,
)
# Seconds for one call of an LLM and of an embedder, attempts, and seconds for all of them.
PROVIDER_TIMEOUT = env.integer("PROVIDER_TIMEOUT", 60, low=1, high=600)
PROVIDER_EMBED_TIMEOUT = env.integer("PROVIDER_EMBED_TIMEOUT", 20, low=1, high=600)
PROVIDER_ATTEMPTS = env.integer("PROVIDER_ATTEMPTS", 3, low=1, high=10)
PROVIDER_DEADLINE = 2 * PROVIDER_TIMEOUT
# Requests in flight hold their claim this long, in seconds, before another may take over: longer
# than the LLM, its fallback and the embedder may take together, each with a last attempt that
# began right before its deadline.
CLAIM_LEASE_SECONDS = max(600, 4 * PROVIDER_TIMEOUT + 6 * PROVIDER_EMBED_TIMEOUT + 60)

LOG_LEVEL = env.text("LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    raise ConfigurationError("LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL.")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "core.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # Every answer is in our own access log; Django's lines would repeat all but tracebacks.
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        "uvicorn.access": {"level": "CRITICAL"},
        # It writes a line for every request that is none, and anybody can send those.
        "uvicorn.error": {"level": "ERROR"},
        # The SDKs of providers write addresses and headers, some with the key in them.
        **{
            name: {"level": "WARNING"}
            for name in (
                *("httpx", "httpx2", "httpcore", "httpcore2"),
                *("openai", "anthropic", "google_genai", "groq", "mem0"),
            )
        },
        # At DEBUG they write codes and tokens.
        **{name: {"level": "INFO"} for name in ("oauth2_provider", "oauthlib")},
        # It writes a line for each transport that it ends, which here is each call.
        "mcp": {"level": "WARNING"},
    },
}
