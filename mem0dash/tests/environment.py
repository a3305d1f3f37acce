"""The environment of the tests, set before Django reads it: own data, own database, no key.

`TEST_DATABASE=postgresql` runs the same tests on a throw-away PostgreSQL cluster.
"""

import atexit
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mem0dash.settings")
ROOT = Path(__file__).resolve().parent.parent.parent

if "MEM0DASH_TEST_PROCESS" not in os.environ:  # workers inherit what this process has set
    os.environ["MEM0DASH_TEST_PROCESS"] = str(os.getpid())
    data = Path(os.environ.get("MEM0DASH_DATA_DIR") or ROOT / "data")
    os.environ.setdefault("MEM0DASH_MODEL_DIR", str(data / "models"))
    scratch = tempfile.TemporaryDirectory(prefix="mem0dash-test-", ignore_cleanup_errors=True)
    atexit.register(scratch.cleanup)
    os.environ["MEM0DASH_DATA_DIR"] = scratch.name
    for name in (
        "ADMIN_API_KEY",
        "AUDIT_RETENTION_DAYS",
        "AUTH_DISABLED",
        "DASHBOARD_URL",
        "DATABASE_POOL_SIZE",
        "DATABASE_URL",
        "DEFAULT_TIME_ZONE",
        "JWT_SECRET",
        "PUBLIC_URL",
        "QDRANT_API_KEY",
        "QDRANT_COLLECTION",
        "QDRANT_HOST",
        "QDRANT_URL",
        "REQUEST_LOG_RETENTION_DAYS",
        "SETUP_TOKEN",
        "HEALTH_DETAILS",
        "MEM0_API_KEY",
        "MEM0_DEFAULT_USER_ID",
        "METRICS_PUBLIC",
        "PUBLIC_BASE_URL",
        "RATE_LIMIT_AUTH_FAILURES",
        "RATE_LIMIT_AUTH_WINDOW_SECONDS",
        "TRUST_FORWARDED_FOR",
        "TRUSTED_PROXIES",
    ):
        os.environ.pop(name, None)
    os.environ["ALLOWED_HOSTS"] = "testserver"
    os.environ["LOG_LEVEL"] = "CRITICAL"
    if os.environ.get("TEST_DATABASE") == "postgresql":
        from prove.postgres import HOW_TO_GET, Cluster, missing

        if missing():
            sys.stderr.write(f"{HOW_TO_GET}; the tests ran on SQLite alone.\n")
            raise SystemExit(0)
        cluster = Cluster()
        atexit.register(cluster.remove)
        os.environ["DATABASE_URL"] = cluster.url()
