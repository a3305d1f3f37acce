"""The environment of the tests, set before Django reads it: own data, own database, no key.

`TEST_DATABASE=postgresql` runs the same tests on a throw-away PostgreSQL cluster.
"""

import atexit
import os
import sys
import tempfile
from pathlib import Path

from prove.environment import ROOT, setting_names

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mem0dash.settings")

if "MEM0DASH_TEST_PROCESS" not in os.environ:  # workers inherit what this process has set
    os.environ["MEM0DASH_TEST_PROCESS"] = str(os.getpid())
    data = Path(os.environ.get("MEM0DASH_DATA_DIR") or ROOT / "data")
    models = os.environ.get("MEM0DASH_MODEL_DIR") or str(data / "models")
    scratch = tempfile.TemporaryDirectory(prefix="mem0dash-test-", ignore_cleanup_errors=True)
    atexit.register(scratch.cleanup)
    for name in setting_names() & os.environ.keys():
        del os.environ[name]
    os.environ["MEM0DASH_DATA_DIR"] = scratch.name
    os.environ["MEM0DASH_MODEL_DIR"] = models
    os.environ["ALLOWED_HOSTS"] = "testserver"
    os.environ["LOG_LEVEL"] = "CRITICAL"
    if os.environ.get("TEST_DATABASE") == "postgresql":
        from prove.postgres import HOW_TO_GET, Cluster, missing

        if missing():
            sys.stderr.write(f"{HOW_TO_GET}; the tests ran on SQLite alone.\n")
            raise SystemExit(0)
        cluster = Cluster(lasting=False)
        atexit.register(cluster.remove)
        os.environ["DATABASE_URL"] = cluster.url()
