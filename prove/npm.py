"""Clients from npm: which versions the proofs use, and where they are installed."""

import contextlib
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prove.conftest import need, need_program
from prove.environment import ROOT

OPENCODE: Final = "opencode-mem0-selfhost@0.1.7"
CONFORMANCE: Final = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
REMOTE: Final = "mcp-remote@0.15.1"
# The conformance suite needs version 22 or later, which not every system has.
NODE: Final = "node@22.23.3"

_KEPT: Final = ROOT / ".artifacts" / "npm"


def installed(*packages: str, options: Sequence[str] = ()) -> Path:
    """The folder node_modules with these packages. It is kept, for they are pinned."""
    npm = need_program("npm", "npm")
    name = hashlib.sha256("\n".join([*packages, *options]).encode()).hexdigest()[:16]
    folder = _KEPT / name
    if not folder.exists():
        _KEPT.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_KEPT))
        (made / "package.json").write_text('{"private": true}')
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", *options]
        done = subprocess.run(
            [*command, *packages],
            cwd=made,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        # Of two that install at a time, the first wins.
        if done.returncode == 0:
            with contextlib.suppress(OSError):
                made.rename(folder)
        shutil.rmtree(made, ignore_errors=True)
        names = ", ".join(packages)
        need(folder.exists(), f"npm could not install {names}: {done.stderr[-500:]}")
    return folder / "node_modules"
