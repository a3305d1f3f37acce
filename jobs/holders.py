"""Who holds a job: this process, under a name by which others see whether it still lives."""

import os
import secrets
from pathlib import Path
from typing import Final


def _place() -> str:
    """Where process ids mean the same: this machine since it was started, and in it this
    container. "" where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"[:50]
    except OSError:
        return ""


_PLACE: Final = _place()
# The last part tells a process from an earlier one with the same id, as in a restarted container.
HOLDER: Final = f"{_PLACE}:{os.getpid()}:{secrets.token_hex(4)}"


def is_dead(holder: str) -> bool:
    """Whether the holder was a process of this place that is no more: nobody waits for it."""
    if holder == HOLDER:
        return False
    place, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if not _PLACE or place != _PLACE or not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
