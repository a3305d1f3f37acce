"""The plugin for Claude Code, with the address of this server filled in."""

import json
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from dashboard.connect.git import Repository, repository

NAME: Final = "mem0dash"
_FOLDER: Final = Path(__file__).parent / "claude_code"
_FILES: Final = (".claude-plugin/plugin.json", ".mcp.json", "hooks/hooks.json", "hooks/memory.py")


def marketplace(base_url: str) -> dict[str, Any]:
    """The manifest of a marketplace with one plugin; `claude plugin marketplace add` takes its URL.

    It names no version: Claude Code takes the commit's, which changes with the files.
    """
    about = "Memory that recalls and saves by itself, kept on your own mem0dash server."
    plugin = {
        "name": NAME,
        "description": about,
        "source": {"source": "url", "url": f"{base_url}/claude-code/{NAME}.git"},
    }
    owner = {"name": NAME, "url": base_url}
    return {"name": NAME, "owner": owner, "metadata": {"description": about}, "plugins": [plugin]}


@lru_cache(maxsize=32)
def plugin_repository(base_url: str) -> Repository:
    """The plugin as a repository. Kept for a few addresses: a server has few names."""
    return repository(plugin_files(base_url), "The plugin as this server serves it")


def plugin_files(base_url: str) -> dict[str, bytes]:
    """The plugin's files by path."""
    filled = {
        '"@MEM0DASH_URL@"': json.dumps(base_url),
        '"@MEM0DASH_MCP_URL@"': json.dumps(f"{base_url}/mcp"),
    }
    files = {}
    for path in _FILES:
        text = (_FOLDER / path).read_text(encoding="utf-8")
        for gap, value in filled.items():
            text = text.replace(gap, value)
        files[path] = text.encode()
    return files


def install_commands(base_url: str) -> str:
    """What a person types to install the plugin."""
    address = shlex.quote(f"{base_url}/claude-code")
    return f"claude plugin marketplace add {address}\nclaude plugin install {NAME}@{NAME}"


def install_script(base_url: str) -> str:
    """The same as a script for sh, which says what is missing."""
    how = shlex.quote(f"{base_url}/llms.txt")
    return f"""\
#!/bin/sh
# Installs the mem0dash plugin into Claude Code. It writes no key anywhere.
set -eu
for program in claude git; do
  command -v "$program" >/dev/null || {{ echo "Install $program first." >&2; exit 1; }}
done
{install_commands(base_url)}
if [ -z "${{MEM0DASH_API_KEY:-}}${{MEM0_API_KEY:-}}" ]; then
  echo "Now keep an API key in MEM0_API_KEY, or in your system's keychain. How:" {how}
fi
"""
