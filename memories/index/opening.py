"""Opens the configured index."""

from pathlib import Path

from django.conf import settings

from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer


def open_indexer(model_key: str, dims: int, *, root: Path | None = None) -> Indexer:
    """The indexer for this model: on the configured Qdrant server, else embedded in the folder
    `root`. IndexUnavailableError if it cannot be opened."""
    if settings.QDRANT_URL:
        # Imported here, because the import would cost an embedded server a second at its start.
        from memories.index.qdrant import Collections, Server
        from memories.index.shared_indexer import SharedIndexer

        server = Server(
            url=settings.QDRANT_URL,
            api_key=settings.QDRANT_API_KEY,
            collection=settings.QDRANT_COLLECTION,
            timeout=settings.QDRANT_TIMEOUT,
            connections=settings.THREADS + 8,
            replication_factor=settings.QDRANT_REPLICATION_FACTOR,
            write_consistency_factor=settings.QDRANT_WRITE_CONSISTENCY_FACTOR,
            shard_number=settings.QDRANT_SHARD_NUMBER,
            on_disk=settings.QDRANT_ON_DISK,
        )
        return SharedIndexer(Collections(server), model_key, dims)
    folder = root or settings.DATA_DIR / "index"
    return Indexer(folder, model_key, dims, open_index=EdgeIndex)
