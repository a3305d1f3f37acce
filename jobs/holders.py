"""The name of this process as a holder of jobs. Others can tell from it whether it is alive."""

import os
import secrets
from pathlib import Path
from typing import Final


def _place() -> str:
    """The place in which process ids are unique: this boot of this machine, and this container. ""
    if that cannot be found out."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"[:50]
    except OSError:
        return ""


_PLACE: Final = _place()
# The last part distinguishes this process from an earlier one with the same id.
HOLDER: Final = f"{_PLACE}:{os.getpid()}:{secrets.token_hex(4)}"


def is_dead(holder: str) -> bool:
    """Whether the holder was a process of this place and has ended."""
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
