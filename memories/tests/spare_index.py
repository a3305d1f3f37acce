"""The embedded index of the tests: made in memory, and used again as long as no test writes to it.

To make one takes a tenth of a second and half of it waits for the disk; more than half of the tests
that want a running engine never write to its index. One that was written to is never used again:
what was deleted still counts where words are weighed.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from memories.index.base import Point
from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer

_IN_MEMORY = Path("/dev/shm")
# Containers have some tens of megabytes there, of which one index takes half.
_ENOUGH_BYTES = 2 << 30


@contextmanager
def quick_folder(otherwise: Path) -> Iterator[Path]:
    """A folder in memory, where the machine has enough of it."""
    if not _IN_MEMORY.is_dir() or shutil.disk_usage(_IN_MEMORY).free < _ENOUGH_BYTES:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(
        prefix="mem0dash-test-", dir=_IN_MEMORY, ignore_cleanup_errors=True
    ) as made:
        yield Path(made)


class _Watched(EdgeIndex):
    """Notes whether anything was written to it."""

    def __init__(self, path: Path, dims: int) -> None:
        super().__init__(path, dims)
        self.is_written = False
        self._as_made: dict[str, Any] = {}
        self._as_made = dict(vars(self))

    def upsert(self, points: Sequence[Point]) -> None:
        self.is_written = self.is_written or bool(points)
        super().upsert(points)

    def is_as_made(self) -> bool:
        """Open, without a point, and with nothing of it replaced."""
        now = dict(vars(self), _as_made={})
        return now == self._as_made and [*self.path.parent.iterdir()] == [self.path]


class SpareIndex:
    """Gives one test after the other an Indexer with an index that holds nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, count(1)
        self._spare: _Watched | None = None

    @contextmanager
    def indexer(self, model_key: str, dims: int) -> Iterator[Indexer]:
        spare, self._spare = self._spare, None
        if spare is not None and spare.dims != dims:
            _discard(spare)
            spare = None
        root = spare.path.parent if spare else self._folder / f"index-{next(self._numbers)}"

        def open_index(path: Path, dims: int) -> _Watched:
            if spare is not None and spare.path == path and spare.is_as_made():
                return spare
            return _Watched(path, dims)

        made = Indexer(root, model_key, dims, open_index=open_index)
        if spare is not None:
            # The folder is not new, but nothing of this test's database is in it.
            made._begin_anew()
        yield made
        if isinstance(made.index, _Watched) and made.index.is_as_made():
            self._spare = made.index
        else:
            _discard(made.index, root)

    def close(self) -> None:
        if self._spare is not None:
            _discard(self._spare)


def _discard(index: Any, root: Path | None = None) -> None:
    index.close()
    shutil.rmtree(root or index.path.parent, ignore_errors=True)
