"""The environment of this process without anything that would configure a server."""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_ASK: Final = "import mem0dash.settings; from core import env; print(*env.asked)"
# Some names are asked for only where others are set.
_SET: Final = {"DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing", "QDRANT_HOST": "127.0.0.1"}
# What no setting is, and would still lead make or Python elsewhere.
_TOOLS: Final = frozenset(
    {
        "DJANGO_SETTINGS_MODULE",
        "MAKEFLAGS",
        "MAKELEVEL",
        "MAKEOVERRIDES",
        "MFLAGS",
        "PYTHONPATH",
        "VIRTUAL_ENV",
    }
)


@cache
def setting_names() -> frozenset[str]:
    """The variables that the settings ask for, and those that name a file instead; told by a
    process that has hardly any of them."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-c", _ASK],
            cwd=ROOT,
            env={**_SET, "MEM0DASH_DATA_DIR": scratch},
            capture_output=True,
            text=True,
            check=True,
        )
    names = done.stdout.split()
    return frozenset([*names, *(f"{name}_FILE" for name in names)])


def clean_environment() -> dict[str, str]:
    """This process's environment without anything that would configure the server."""
    kept = os.environ.keys() - setting_names() - _TOOLS
    return {name: os.environ[name] for name in kept}
