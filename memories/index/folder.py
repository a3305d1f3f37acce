"""The folder of the embedded index: its lock, the check for changes since its closing, and damaged
generations that were set aside."""

import errno
import fcntl
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from core import disk
from core.errors import IndexInUseError
from core.folders import is_read_only

CONFIG: Final = "edge_config.json"
# The record of all files at the last closing, and the number of unfinished openings since.
_LEFT: Final = "left.json"
_OPENING: Final = "opening"
# How many starts may die while opening the index before it counts as damaged.
_MOST_OPENINGS: Final = 2
_ASIDE: Final = "damaged-"
_KEEP_ASIDE_SECONDS: Final = 7 * 86_400
_SECOND: Final = 1_000_000_000


# --- Locks ---------------------------------------------------------------------------------------
class _Lock:
    """The lock file beside the folder of an index, locked once per process."""

    def __init__(self, path: Path, root: Path) -> None:
        self._descriptor = _open_lock_file(path)
        self.users = 0
        if self._descriptor is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 20, 0).decode(errors="replace").strip()
            self.close()
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                return  # the file system has no locks: the folder's own lock has to do
            raise in_use_error(root, holder) from error
        with suppress(OSError):  # on a full or read-only disk the lock works without the process id
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open_lock_file(path: Path) -> int | None:
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with suppress(OSError):
            return os.open(path, flags | os.O_CLOEXEC, 0o600)
    return None


_locks: dict[Path, _Lock] = {}
_guard = threading.Lock()


def hold(root: Path) -> Callable[[], None]:
    """Locks `root` against other processes; returns the function that releases it.

    IndexInUseError names the process that holds the lock.
    """
    path = root.resolve().with_name(f"{root.name}.lock")
    with _guard:
        lock = _locks.get(path) or _locks.setdefault(path, _Lock(path, root))
        lock.users += 1

    def let_go() -> None:
        with _guard:
            lock.users -= 1
            if not lock.users:
                _locks.pop(path, None)
                lock.close()

    return let_go


class _Asker:
    """An owner that holds a folder for a moment."""


def is_held(root: Path) -> bool:
    """Whether another process, of this version or an older one, works below `root` now."""
    if not root.is_dir():
        return False
    try:
        hold(root)()
        for path in root.glob("[0-9]*"):
            if path.is_dir():
                hold_folder(_Asker(), path)()
    except IndexInUseError:
        return True
    return False


def hold_folder(owner: object, path: Path) -> Callable[[], object]:
    """Locks the folder of one generation while `owner` lives; returns the function that releases
    it.

    The engine would refuse a second process as well, but only after truncating the journals of the
    first, which could then never flush its index again. Versions without a lock file respect this
    lock too.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    let_go = weakref.finalize(owner, os.close, folder)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        let_go()
        raise in_use_error(path) from error
    except OSError:
        pass  # the file system has no locks
    return let_go


def in_use_error(path: Path, holder: str = "") -> IndexInUseError:
    who = f"another mem0dash (process {holder})" if holder else "another mem0dash"
    return IndexInUseError(
        f"The memory index in {path} is in use by {who}. Stop that one first: only one server may "
        "use a data directory."
    )


# --- Changes since the last closing --------------------------------------------------------------
def record_closed(path: Path) -> None:
    """Records size and time of every file after the index was closed."""
    files = {name: list(stamp) for name, stamp in _stamps(path).items()}
    with suppress(OSError):  # without a record the next start compares the index with SQL
        draft = path / f"{_LEFT}.new"
        draft.write_text(json.dumps(files), encoding="utf-8")
        draft.replace(path / _LEFT)


def compare_with_record(path: Path) -> tuple[bool, str]:
    """Whether the index was closed properly, and what has changed since; "" for nothing. Removes
    the record, because the files change from now on."""
    note = path / _LEFT
    try:
        recorded = json.loads(note.read_text(encoding="utf-8"))
        note.unlink()
    except FileNotFoundError:
        return False, ""
    except (OSError, ValueError):
        return False, ""
    now = _stamps(path)
    for name, (size, at) in recorded.items():
        if name not in now:
            return True, f"{name} is missing"
        if now[name][0] != size or not _same_time(now[name][1], at):
            return True, f"{name} was changed"
    return True, ""


def _same_time(now: int, then: int) -> bool:
    """Whether the times are equal; copies may keep only whole seconds."""
    return now == then or (now % _SECOND == 0 and now // _SECOND == then // _SECOND)


def _stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time (ns) of each of the engine's files."""
    stamps = {}
    for folder, _, names in os.walk(path):
        for name in names:
            if name.startswith((_LEFT, _OPENING)):
                continue
            file = Path(folder, name)
            stat = file.stat()
            stamps[str(file.relative_to(path))] = (stat.st_size, stat.st_mtime_ns)
    return stamps


def record_opening(path: Path) -> bool:
    """Records that the engine is about to open the index; False if earlier starts died of that."""
    marker = path / _OPENING
    try:
        before = len(marker.read_bytes())
    except OSError:
        before = 0
    if before >= _MOST_OPENINGS:
        return False
    with suppress(OSError):
        marker.write_bytes(b"x" * (before + 1))
    return True


def record_opened(path: Path) -> None:
    with suppress(OSError):
        (path / _OPENING).unlink(missing_ok=True)


def is_writable(path: Path) -> bool:
    """Whether the engine may write all of its files, which it maps to memory."""
    if is_read_only(path):
        return False
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                os.close(os.open(Path(folder, name), os.O_RDWR | os.O_CLOEXEC))
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in {errno.EPERM, errno.EACCES, errno.EROFS}:
                    return False
    return True


def identity(path: Path) -> tuple[int, int] | None:
    """The identity of the folder, None if it is missing. A deleted and recreated folder has another
    one."""
    try:
        (path / CONFIG).stat()
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


# --- Setting aside -------------------------------------------------------------------------------
def prepare(root: Path) -> str:
    """Creates the folder of all generations; returns what was in the way and was set aside, or "".

    If that fails, opening the index reports the problem.
    """
    moved = ""
    with suppress(OSError):
        # A dangling link is in the way too.
        if os.path.lexists(root) and not root.is_dir():
            target = root.with_name(f"{root.name}.{_ASIDE}{int(time.time())}")
            root.rename(target)
            moved = f"{root} is no folder"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return moved


def set_aside(path: Path) -> Path | None:
    """Moves a damaged generation aside for inspection; returns the new path, None if it was
    removed.

    Keeps one at a time, for a week, and none while the disk is low, because the index is a cache.
    """
    if not path.exists():
        return None
    drop_aside(path.parent, all_of_them=True)
    if disk.room_of(path.parent).is_low:
        _remove(path)
        return None
    target = path.parent / f"{_ASIDE}{path.name}-{int(time.time())}"
    try:
        path.rename(target)
    except OSError:
        _remove(path)
        return None
    return target


def drop_aside(root: Path, *, all_of_them: bool = False) -> None:
    """Removes what was set aside more than a week ago, or all of it."""
    for folder in root.glob(f"{_ASIDE}*"):
        with suppress(ValueError):
            age = time.time() - int(folder.name.rpartition("-")[2])
            if all_of_them or age > _KEEP_ASIDE_SECONDS:
                _remove(folder)


def drop_others(root: Path, keep: Path) -> None:
    """Removes all generations but one, and what was set aside long ago."""
    drop_aside(root)
    for folder in root.iterdir():
        if folder.is_dir() and folder != keep and not folder.name.startswith(_ASIDE):
            _remove(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
