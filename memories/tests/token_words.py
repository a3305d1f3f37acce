"""A stand-in for the local model that reads tokens as well: the words of a text are its pieces."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from conftest import WordEmbedder
from memories.engine import configuration
from memories.engine.engine import Engine
from memories.models import Memory, MemoryTokens
from memories.readings import DIMS, QueryTokens, Reading, TokenStates, pack_states
from memories.runtime import Runtime
from memories.storage.rows import text_to_embed
from memories.tests.provider import Provider
from memories.tests.providing import embedder_at, use_embedder


class WordReader(WordEmbedder):
    """`threads` are the names of those that it has read texts in; `meanwhile` is called while it
    reads."""

    states_key = "test/words-1/states-1"

    def __init__(self) -> None:
        super().__init__()
        self.read_texts: list[str] = []
        self.threads: set[str] = set()
        self.meanwhile: Callable[[], object] = lambda: None

    def read(self, texts: Sequence[str]) -> list[Reading]:
        self.read_texts += texts
        self.threads.add(threading.current_thread().name)
        self.meanwhile()
        vectors = [self._vector(text) for text in texts]
        return [Reading(v, states(t)) for v, t in zip(vectors, texts, strict=True)]

    def read_query(self, query: str) -> Any:
        found = states(query)
        return self._vector(query), QueryTokens(*found, tuple(query.split()))

    def words(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))] * len(text.split())


def states(text: str) -> TokenStates:
    """Word n of a text is piece n, which points to a dimension by the length of the word."""
    lengths = [len(word) % DIMS for word in text.split()]
    pieces = np.arange(len(lengths), dtype=np.uint16)
    return TokenStates(pieces, np.eye(DIMS, dtype=np.float32)[lengths])


class Loader:
    """Loads a `WordReader` where the local model would be loaded, and counts how often."""

    loads = 0
    present = True
    made: ClassVar[list[WordReader]] = []

    @classmethod
    def begin(cls, *, present: bool = True) -> None:
        cls.loads, cls.present = 0, present
        cls.made.clear()

    @classmethod
    def load(cls) -> WordReader | None:
        cls.loads += 1
        if cls.present:
            cls.made.append(WordReader())
        return cls.made[-1] if cls.present else None


def load() -> WordReader | None:
    return Loader.load()


LOADER = f"{__name__}.load"


def with_reader(running: Runtime, reader: WordReader) -> WordReader:
    """Lets `reader` make vectors and states, as the local model does."""
    running.engine = Engine(reader, reader=reader)
    return reader


def with_provider(running: Runtime, provider: Provider) -> None:
    """Lets `provider` make the vectors; the reader is yet to be loaded."""
    use_embedder(running, provider)
    made, choice = running.engine.embedder, embedder_at(provider)
    wanted = replace(configuration.current_configuration(), embedder=choice, dims=provider.dims)
    running.version = configuration.save(wanted, account_id=None, reason="test").version
    running.engine = Engine(made, chosen=choice, wants_reader=True)


def kept(id_: Any) -> bytes | None:
    """The states that are kept of a memory."""
    row = MemoryTokens.objects.filter(memory_id=id_).first()
    return None if row is None else bytes(row.data)


def right(id_: Any) -> bytes:
    """What has to be kept of it."""
    return pack_states(states(text_to_embed(Memory.objects.get(id=id_))))
