"""Free disk space, and the refusal of writes when it runs out.

The embedded index writes to sparse memory-mapped files. If no block is left for a hole, the kernel
kills the whole process with SIGBUS, so the free space is checked before each such write.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings

from core.errors import DiskFullError, ReadOnlyError
from core.folders import is_read_only

MB: Final = 1 << 20
# Mapped writes stop below a tenth of the file system, within these bounds, because other programs
# may fill the disk during a write, and the index's smallest write touches a few dozen pages.
LEAST_FLOOR: Final = 8 * MB
MOST_FLOOR: Final = 64 * MB
RESERVE_NAME: Final = "reserve"


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """The free bytes on the file system of `folder`, for a user who is not root."""

    folder: Path
    free: int
    floor: int

    @property
    def is_low(self) -> bool:
        """Whether the index may not be written any more."""
        return self.free < self.floor

    def fits(self, size: int = 0) -> bool:
        """Whether so many bytes can be stored and the index can still follow and be flushed."""
        return self.free >= 2 * self.floor + size


def room_of(folder: Path) -> FreeSpace:
    """The free space for `folder`, which may not exist yet. About 3 µs."""
    while True:
        try:
            stat = os.statvfs(folder)
            break
        except FileNotFoundError:
            folder = folder.parent
    if not stat.f_blocks:  # some file systems do not report it
        return FreeSpace(folder, 1 << 60, LEAST_FLOOR)
    total, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    return FreeSpace(folder, free, min(max(total // 10, LEAST_FLOOR), MOST_FLOOR))


def folders() -> list[Path]:
    """The folders where this process writes memories: none in the distributed form."""
    result = []
    if settings.DATABASE_FILE is not None:
        result.append(settings.DATABASE_FILE.parent)
    if not settings.QDRANT_URL and settings.DATA_DIR not in result:
        result.append(settings.DATA_DIR)
    return result


def check_room(size: int = 0) -> None:
    """Raises DiskFullError if `size` more bytes of memories do not fit. Deletes need no check,
    because the reserve is for them."""
    for folder in folders():
        if not (room := room_of(folder)).fits(size):
            raise disk_full_error(room, 2 * room.floor + size)


def is_low() -> bool:
    """Whether background work has to wait, because deletes need the remaining room."""
    return any(room_of(folder).is_low for folder in folders())


def disk_full_error(room: FreeSpace, needed: int) -> DiskFullError:
    return DiskFullError(
        f"The server's disk is full: {_megabytes(room.free)} are free, {_megabytes(needed)} are "
        "needed to store memories. Reading and deleting still work.",
        retry_after=30,
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def write_refused_error() -> DiskFullError:
    """The error for a write that the disk refused."""
    for folder in folders():
        if not (room := room_of(folder)).fits():
            return disk_full_error(room, 2 * room.floor)
    free = _megabytes(room_of((settings.DATABASE_FILE or settings.DATA_DIR).parent).free)
    return DiskFullError(
        f"The disk of the database is full: {free} are free here. Reading still works.",
        retry_after=30,
    )


def check() -> None:
    """settings.HEALTH_CHECKS: raises StorageError if memories cannot be stored."""
    check_room()
    for folder in folders():
        if is_read_only(folder):
            raise ReadOnlyError(
                f"The folder {folder} can only be read: nothing can be stored or deleted."
            )


def free_bytes() -> int:
    """The smallest free space of all folders, for the metrics."""
    return min((room_of(folder).free for folder in folders()), default=0)


# --- The reserve ---------------------------------------------------------------------------------
_tending = threading.Lock()


def tend_reserve(*, may_make: bool = True) -> None:
    """Keeps a file whose space is given to deletes once the disk is full, and reclaimed later.

    At a start that may still be refused, it only frees the space (`may_make`). SQLite needs space
    even for deletes: for its journal, and at the start for shared memory.
    """
    if settings.DATABASE_FILE is None:
        return
    folder = settings.DATABASE_FILE.parent
    path = folder / RESERVE_NAME
    with _tending:
        room = room_of(folder)
        size = room.floor // 2
        if path.exists():
            if room.is_low:
                path.unlink(missing_ok=True)
        elif may_make and room.fits(room.floor + size):
            _allocate(path, size)


def _allocate(path: Path, size: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
