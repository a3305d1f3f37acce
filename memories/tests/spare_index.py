"""The embedded index of the tests: made in memory, emptied after each test, and used again.

To make one takes a tenth of a second, half of which waits for the disk; to empty it takes one
millisecond.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from memories.index.base import Point
from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer
from memories.index.payload import LEXICAL

_IN_MEMORY = Path("/dev/shm")
# Containers have some tens of megabytes there, of which one index takes half.
_ENOUGH_BYTES = 2 << 30
# What was deleted still takes room, and time where all is looked through.
_MOST_POINTS = 2000


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


class _Spare(EdgeIndex):
    """Knows whether it can be used again, and forgets all that it holds."""

    def __init__(self, path: Path, dims: int) -> None:
        super().__init__(path, dims)
        self.points = 0
        self._as_made: dict[str, Any] = {}
        self._as_made = dict(vars(self))

    def upsert(self, points: Sequence[Point]) -> None:
        self.points += len(points)
        super().upsert(points)

    def is_as_made(self) -> bool:
        """Open, alone in its folder, and with nothing of it replaced."""
        now = dict(vars(self), _as_made={}, points=0)
        return (
            now == self._as_made
            and self.points <= _MOST_POINTS
            and [*self.path.parent.iterdir()] == [self.path]
        )

    def forget(self) -> None:
        """What was deleted still counts where words are weighed, unless their vector is new."""
        self.delete([id_ for id_, _ in self.scan_ids()])
        self._shard.update(edge.UpdateOperation.delete_vector_name(LEXICAL))
        self._shard.update(edge.UpdateOperation.create_sparse_vector(LEXICAL, edge.Modifier.Idf))


class SpareIndex:
    """Gives one test after the other an Indexer with an index that holds nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, count(1)
        self._spares: dict[int, _Spare] = {}

    @contextmanager
    def indexer(self, model_key: str, dims: int) -> Iterator[Indexer]:
        spare = self._spares.pop(dims, None)
        root = spare.path.parent if spare else self._folder / f"index-{next(self._numbers)}"

        def open_index(path: Path, dims: int) -> _Spare:
            if spare is not None and spare.path == path and spare.is_as_made():
                return spare
            return _Spare(path, dims)

        made = Indexer(root, model_key, dims, open_index=open_index)
        if spare is not None:
            # The folder is not new, but nothing of this test's database is in it.
            made._begin_anew()
        yield made
        if isinstance(made.index, _Spare) and made.index.is_as_made():
            made.index.forget()
            self._spares[made.index.dims] = made.index
        else:
            _discard(made.index, root)

    def close(self) -> None:
        while self._spares:
            _, spare = self._spares.popitem()
            _discard(spare, spare.path.parent)


def _discard(index: Any, root: Path) -> None:
    index.close()
    shutil.rmtree(root, ignore_errors=True)
