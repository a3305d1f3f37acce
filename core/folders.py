"""Whether this process may write its folders and files, and what to do if it may not."""

import errno
import os
import pwd
from pathlib import Path

_REFUSED = frozenset({errno.EPERM, errno.EROFS, errno.EACCES})


def is_read_only(path: Path) -> bool:
    """Whether the kernel refuses writes there: a read-only mount, immutable, or another user's."""
    try:
        if os.statvfs(path).f_flag & os.ST_RDONLY or not os.access(path, os.W_OK):
            return True
        # Root may write everywhere except to immutable files, which only an attempt shows. This
        # attempt leaves the times as they are.
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    except OSError as error:
        return error.errno in _REFUSED
    return False


def is_read_only_file(path: Path) -> bool:
    """Whether the file exists and no user can write it: a read-only mount, or the file or its
    folder is immutable. A file that only belongs to another user does not count."""
    if not path.is_file():
        return False
    return any(_is_fixed(place) for place in (path, path.parent))


def _is_fixed(place: Path) -> bool:
    """Whether no user can write there now."""
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return True
    stat = place.stat()
    if os.access(place, os.W_OK) or os.geteuid() not in {0, stat.st_uid}:
        return False
    try:
        # An owner may set the times of a file without write permission, but not of an immutable
        # one.
        os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    except OSError as error:
        return error.errno in _REFUSED
    return False


def unwritable(folder: Path) -> str:
    """Why this process cannot write in `folder`, as a sentence with the remedy; "" if it can, or if
    nobody can (a read-only disk is handled elsewhere)."""
    if os.access(folder, os.W_OK | os.X_OK) or _is_fixed(folder):
        return ""
    me, owner = os.geteuid(), folder.stat().st_uid
    if me == owner:
        return (
            f"{folder} is not writable for user {_name(me)}, who owns it. Run: chmod u+rwx {folder}"
        )
    return (
        f"{folder} is not writable for user {_name(me)}: it belongs to {_name(owner)}. "
        f"Run chown -R {me} {folder}, or start the server as its owner."
    )


def unmakeable(folder: Path, error: OSError) -> str:
    """Why `folder` could not be created."""
    above = folder
    while not above.exists() and above != above.parent:
        above = above.parent
    if above.is_dir() and (why := unwritable(above)):
        return why
    return f"{folder} cannot be used as a directory ({error.strerror})."


def unusable_database(path: Path) -> str:
    """Why SQLite cannot write the database `path` or the files beside it; "" if it can, or on a
    read-only disk."""
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist. Make it first."
    if why := unwritable(path.parent):
        return why
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        if why := _strangers(path.with_name(name)):
            return why
    return ""


def _strangers(path: Path) -> str:
    if not path.exists() or os.access(path, os.R_OK | os.W_OK):
        return ""
    if _is_fixed(path):
        return ""
    me = os.geteuid()
    return (
        f"{path} is not writable for user {_name(me)}: it belongs to {_name(path.stat().st_uid)}. "
        f"Run: chown {me} {path}"
    )


def tighten(path: Path) -> None:
    """Removes other users' rights from this user's database file and the files beside it."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        file = path.with_name(name)
        try:
            stat = file.stat()
            if stat.st_uid == os.geteuid() and stat.st_mode & 0o077:
                file.chmod(0o600)
        except OSError:
            continue  # missing, or on a read-only disk


def _name(uid: int) -> str:
    """`mem0dash (uid 10001)`, or `uid 10001` if the machine has no name for it."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
