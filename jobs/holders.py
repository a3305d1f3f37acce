"""Who holds a job or a lease: a process, under a name that tells others whether it still lives."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final


def _place() -> str:
    """Where process ids mean the same: this machine since it was started, and in it this
    container. "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        inside = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return hashlib.sha256(f"{boot}/{inside}".encode()).hexdigest()[:24]


def _stat(pid: int) -> tuple[str, str]:
    """A process's state and start time, which tells it from a later process with the same id."""
    # The name before the last parenthesis may hold anything.
    content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = content.rpartition(")")[2].split()
    return fields[0], fields[19]


def holder_of(pid: int) -> str:
    """The name of a process of this place, at most 64 characters; a restarted one has another."""
    try:
        return f"{PLACE}:{pid}:{_stat(pid)[1]}"
    except (OSError, IndexError):
        return f"{PLACE}:{pid}:{'' if PLACE else secrets.token_hex(4)}"


PLACE: Final = _place()
# This process.
HOLDER: Final = holder_of(os.getpid())


def is_dead(holder: str) -> bool:
    """Whether the holder is a dead process of this place. In doubt it counts as alive."""
    place, _, process = holder.partition(":")
    pid, _, started = process.partition(":")
    if not PLACE or place != PLACE or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
        state, started_now = _stat(int(pid))
    except ProcessLookupError:
        return True
    except (OSError, IndexError):
        return False
    # A killed process stays listed until its parent reaps it.
    return state in {"Z", "X"} or started not in {"", started_now}
