"""Django settings: the environment is read here, and nowhere else."""

import ipaddress
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import dj_database_url
from cryptography.fernet import Fernet

from mem0dash import env
from mem0dash.env import ConfigurationError
from mem0dash.version import VERSION

# mem0 reads both when it is first imported: no telemetry, no files in the home directory.
os.environ["MEM0_TELEMETRY"] = "False"

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.text("MEM0DASH_DATA_DIR", str(BASE_DIR / "data"))).expanduser().resolve()
try:
    # For its owner alone: what people tell their agents is private.
    DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
except OSError as _error:
    raise ConfigurationError(
        f"MEM0DASH_DATA_DIR: {DATA_DIR} cannot be used as a directory ({_error.strerror})."
    ) from _error
MODEL_DIR = Path(env.text("MEM0DASH_MODEL_DIR", str(DATA_DIR / "models"))).expanduser().resolve()
os.environ["MEM0_DIR"] = str(DATA_DIR / "mem0")

HOST = env.text("HOST", "127.0.0.1")
PORT = env.integer("PORT", 8000, low=0, high=65535)
DEBUG = False

# --- Secrets -------------------------------------------------------------------------------------
SECRET_KEY = env.kept_secret("SECRET_KEY", DATA_DIR / "secret_key", make=secrets.token_urlsafe(50))
if len(SECRET_KEY) < 32:
    raise ConfigurationError("SECRET_KEY must have at least 32 characters.")
ENCRYPTION_KEYS = [
    key.strip()
    for key in env.kept_secret(
        "ENCRYPTION_KEY", DATA_DIR / "encryption_key", make=Fernet.generate_key().decode()
    ).split(",")
]
for _key in ENCRYPTION_KEYS:
    try:
        Fernet(_key)
    except ValueError as _error:
        raise ConfigurationError(
            "ENCRYPTION_KEY must be 32 url-safe base64-encoded bytes (44 characters); "
            "several, newest first, are separated by commas."
        ) from _error
ADMIN_API_KEY = env.text("ADMIN_API_KEY")
if ADMIN_API_KEY and len(ADMIN_API_KEY) < 16:
    raise ConfigurationError("ADMIN_API_KEY must have at least 16 characters.")
AUTH_DISABLED = env.flag("AUTH_DISABLED")

# --- Where it is reached -------------------------------------------------------------------------
PUBLIC_URL = env.text("PUBLIC_URL").rstrip("/")
try:
    _public = urlsplit(PUBLIC_URL)
except ValueError:
    _public = urlsplit("unreadable:")
if PUBLIC_URL and (_public.scheme not in {"http", "https"} or not _public.hostname):
    raise ConfigurationError(
        f"PUBLIC_URL must look like https://memory.example.org, not {PUBLIC_URL!r}."
    )
# Hosts beside loopback and IP literals, which middleware.HostMiddleware always accepts.
NAMED_HOSTS = [*env.words("ALLOWED_HOSTS"), *([_public.hostname] if _public.hostname else [])]
ALLOWED_HOSTS = ["*"]
TRUSTED_PROXIES = []
for _network in env.words("TRUSTED_PROXIES"):
    try:
        TRUSTED_PROXIES.append(ipaddress.ip_network(_network, strict=False))
    except ValueError as _error:
        raise ConfigurationError(
            f"TRUSTED_PROXIES must list addresses or networks, not {_network!r}."
        ) from _error
SECURE_HSTS_SECONDS = 31_536_000 if _public.scheme == "https" else 0
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _public.scheme == "https"
SILENCED_SYSTEM_CHECKS = [
    "security.W002",  # framing is refused by middleware.RequestMiddleware, policy and header
    "security.W003",  # no cookie signs a request in, so there is nothing to forge
    "security.W004",  # HSTS follows PUBLIC_URL's scheme
    "security.W008",  # TLS ends at the operator's proxy, which redirects
]
APPEND_SLASH = False
# The largest request body, in bytes; asgi.py answers 413 above it.
MAX_BODY_BYTES = 8 * 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# Threads that serve requests; asgi.py gives them to Django's WSGI application.
THREADS = env.integer("THREADS", 16, low=2, high=128)

# --- Database ------------------------------------------------------------------------------------
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
if _database["ENGINE"] == "django.db.backends.sqlite3":
    if _database["NAME"] in {"", ":memory:"}:
        raise ConfigurationError("DATABASE_URL must name a file, such as sqlite:////path/to/file.")
    _database["CONN_HEALTH_CHECKS"] = False
    _database["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        # FULL: an acknowledged memory survives a power cut, not only a killed process.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;PRAGMA cache_size=-4000;",
    }
elif _database["ENGINE"] != "django.db.backends.postgresql":
    raise ConfigurationError("DATABASE_URL must name a SQLite or a PostgreSQL database.")
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Applications --------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "mem0dash.apps.Mem0dashConfig",
    "accounts.apps.AccountsConfig",
    "apikeys.apps.ApikeysConfig",
    "operations.apps.OperationsConfig",
    "memories.apps.MemoriesConfig",
]
MIDDLEWARE = [
    "mem0dash.middleware.RequestMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "mem0dash.middleware.HostMiddleware",
    "mem0dash.middleware.BodyLimitMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
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

# What the health route asks: name -> callable that raises when the part is out of order.
HEALTH_CHECKS = {
    "database": "operations.health.check_database",
    "index": "memories.runtime.check_index",
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["apikeys.authentication.CredentialAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["apikeys.authentication.HasPrincipal"],
    "DEFAULT_PARSER_CLASSES": ["memories.api.json.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["memories.api.json.OrjsonRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "memories.api.json.AlwaysJson",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
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
    "POSTPROCESSING_HOOKS": ["apikeys.schema.either_credential"],
}

# --- Memory engine -------------------------------------------------------------------------------
# Loads what turns texts into vectors, or gives None for keyword search only.
EMBEDDER_LOADER = "memories.engine.embedders.load_embedder"
# Embedded requests in flight hold their claim this long, in seconds, before another may take over.
CLAIM_LEASE_SECONDS = 180

LOG_LEVEL = env.text("LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    raise ConfigurationError("LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL.")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "mem0dash.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # Every answer is in our own access log; Django's lines would repeat all but tracebacks.
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        "uvicorn.access": {"level": "CRITICAL"},
        "uvicorn.error": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
    },
}
