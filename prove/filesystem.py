"""File systems of the proofs' own: an ext4 image that is loop-mounted, else a small tmpfs."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prove.conftest import need

HOW_TO_GET: Final = (
    "no file system can be mounted: run the proofs as root, with e2fsprogs (apt-get install "
    "e2fsprogs) and loop devices, or where a tmpfs may be mounted"
)
_MB: Final = 1 << 20


class FileSystem:
    """A mounted file system of its own at `path`, of about `size` bytes."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self._ballast = path / "ballast"

    @property
    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, *, left: int) -> None:
        """Takes all room but about `left` bytes, as another program's file."""
        with self._ballast.open("ab") as file:
            while (take := min(self.free - left, 4 * _MB)) > 0:
                try:
                    file.write(bytes(take))
                    file.flush()
                except OSError:
                    break
                os.fsync(file.fileno())

    def give_back(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def remount(self, mode: str) -> None:
        """`ro` or `rw`; no file may be open for writing."""
        _run("mount", "-o", f"remount,{mode}", str(self.path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextmanager
def mounted(folder: Path, size: int = 96 * _MB) -> Iterator[FileSystem]:
    """A file system below `folder`, which is unmounted whatever happens."""
    place, image = folder / "disk", folder / "disk.img"
    place.mkdir()
    kind = _mount(place, image, size)
    need(kind, HOW_TO_GET)
    try:
        yield FileSystem(place, kind)
    finally:
        # Lazily: what a killed server leaves open must not keep it.
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True, timeout=60)
        image.unlink(missing_ok=True)


def _mount(place: Path, image: Path, size: int) -> str:
    if shutil.which("mkfs.ext4"):
        with image.open("wb") as file:
            file.truncate(size)
        try:
            _run("mkfs.ext4", "-q", "-m", "0", str(image))
            _run("mount", "-o", "loop", str(image), str(place))
        except subprocess.SubprocessError:
            image.unlink(missing_ok=True)
        else:
            return "ext4"
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place))
    except (OSError, subprocess.SubprocessError):
        return ""
    return "tmpfs"
