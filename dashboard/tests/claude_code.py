"""Claude Code as a plugin sees it, for tests: it runs hooks, and keeps a transcript."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 15.0


@dataclass
class ClaudeCode:
    """Claude Code, as far as hooks see it: an installed plugin, a project, and a transcript."""

    root: Path
    settings: dict[str, str]
    session: str = "0b1c9a34-0000-4000-8000-000000000001"
    project: str = "boat"
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "CLAUDE_PLUGIN_ROOT": str(self.plugin),
            "CLAUDE_PLUGIN_DATA": str(self.root / "kept"),
            # A busy machine takes longer than people's do.
            "MEM0DASH_RECALL_SECONDS": "10",
            **self.settings,
        }

    @property
    def plugin(self) -> Path:
        return self.root / "plugin"

    @property
    def transcript(self) -> Path:
        return self.root / f"{self.session}.jsonl"

    def run(self, event: str, **more: Any) -> str:
        """What the hook of `event` tells Claude."""
        hooks = json.loads((self.plugin / "hooks" / "hooks.json").read_text())["hooks"]
        [hook] = hooks[event][0]["hooks"]
        about = {
            "hook_event_name": event,
            "session_id": self.session,
            "cwd": str(self.root / self.project),
            "transcript_path": str(self.transcript),
            **more,
        }
        done = subprocess.run(
            ["sh", "-c", hook["command"]],
            input=json.dumps(about),
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        if not done.stdout:
            return ""
        output = json.loads(done.stdout)["hookSpecificOutput"]
        assert output["hookEventName"] == event
        return str(output["additionalContext"])

    def prompt(self, text: str) -> str:
        return self.run("UserPromptSubmit", prompt=text)

    def say(self, role: str, content: Any, **more: Any) -> None:
        entry = {"type": role, "message": {"role": role, "content": content}, **more}
        with self.transcript.open("a") as transcript:
            transcript.write(json.dumps(entry) + "\n")


def eventually(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
