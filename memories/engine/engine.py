"""The models behind the domain: vectors and token states of texts, and the LLM."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from core.errors import Mem0dashError, ProviderError
from memories.engine.calls import CallRecord
from memories.engine.catalogue import ProviderChoice
from memories.engine.embedders import Embedder, RecentQueries
from memories.readings import BAD_REPLY, QueryTokens, Reading, Vector, normalise_vector

if TYPE_CHECKING:
    from memories.engine.remote import Llm  # reads settings that are not loaded yet
    from memories.engine.token_reader import TokenReader

logger = logging.getLogger(__name__)

T = TypeVar("T")
# How long searches go by words alone, instead of waiting for an embedder that has just failed.
REST_SECONDS: Final = 10.0
_ABSENT: Final = frozenset({"provider_timeout", "provider_unavailable", "provider_rate_limited"})


class Engine:
    """The models in use. Without an embedder search is by words; without an LLM every add is
    verbatim. `chosen` is the embedder's provider, None for the local model.

    `reader` makes the token states for late interaction: it is the local model, and may be the
    embedder itself. `wants_reader` says that one is wanted, though it may still be loading.
    """

    def __init__(
        self,
        embedder: Embedder | None,
        llm: "Llm | None" = None,
        chosen: ProviderChoice | None = None,
        *,
        reader: "TokenReader | None" = None,
        wants_reader: bool = False,
    ) -> None:
        self.embedder = embedder
        self.llm = llm
        self.chosen = chosen
        self.reader = reader
        self.wants_reader = wants_reader or reader is not None
        # The embedder's calls.
        self.calls = CallRecord()
        self._vectors_of: RecentQueries[Vector] = RecentQueries()
        self._tokens_of: RecentQueries[tuple[QueryTokens | None]] = RecentQueries()
        self._absent: ProviderError | None = None
        self._absent_until = 0.0
        self._looking = threading.Lock()

    @property
    def model_key(self) -> str:
        return self.embedder.model_key if self.embedder else ""

    @property
    def dims(self) -> int:
        return self.embedder.dims if self.embedder else 0

    @property
    def states_key(self) -> str:
        return self.reader.states_key if self.reader else ""

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Vectors of texts that are about to be stored, errors as `embed`; with their token states
        if the local model is the embedder. With another embedder the states are made later, because
        an add should not wait for a second pass."""
        reader = self.reader
        if reader is None or reader is not self.embedder or not texts:
            return [Reading(vector) for vector in self.embed(texts)]
        with self.calls.noting():
            readings = self._safely(lambda: reader.read(texts))
            vectors = self._checked([one.vector for one in readings], len(texts))
        self._absent = None
        return [Reading(vector, one.tokens) for vector, one in zip(vectors, readings, strict=True)]

    def read_query(self, query: str) -> tuple[Vector | None, QueryTokens | None]:
        """Vector and tokens of a query, each None without a model for it; errors of the embedder as
        `embed`. Never waits for a model to load."""
        reader = self.reader
        if reader is not None and reader is self.embedder and self._tokens_of.get(query) is None:
            with self.calls.noting():
                vector, tokens = self._safely(lambda: reader.read_query(query))
                [checked] = self._checked([vector], 1)
            self._vectors_of.keep(query, checked)
            self._tokens_of.keep(query, (tokens,))
        return self.embed_query(query), self.query_tokens(query)

    def query_tokens(self, query: str) -> QueryTokens | None:
        """The word pieces of a query; None without a reader, for a query that it does not read, and
        if it fails, because a search can do without them. Calls no provider."""
        reader = self.reader
        if reader is None:
            return None
        cached = self._tokens_of.get(query)
        if cached is None:
            try:
                cached = (reader.read_query(query)[1],)
            except Exception:
                logger.exception("the word pieces of a query cannot be read")
                return None
            self._tokens_of.keep(query, cached)
        return cached[0]

    def embed(self, texts: Sequence[str]) -> list[Vector | None]:
        """One unit vector for each text, in one batch; all None without an embedder.

        ProviderError when the embedder fails or answers with something unusable.
        """
        if self.embedder is None or not texts:
            return [None] * len(texts)
        vectors = self._embed_checked(self.embedder.embed, texts)
        self._absent = None
        return [*vectors]

    def embed_query(self, query: str) -> Vector | None:
        """The unit vector of a query, None without an embedder; errors as `embed`."""
        if self.embedder is None:
            return None
        vector = self._vectors_of.get(query)
        if vector is None:
            self._rest()
            try:
                embed = getattr(self.embedder, "embed_query", None)
                ask = self.embedder.embed if embed is None else lambda _: embed(query)
                [vector] = self._embed_checked(ask, [query])
            except ProviderError as error:
                if error.code in _ABSENT:
                    self._absent, self._absent_until = error, time.monotonic() + REST_SECONDS
                raise
            self._absent = None
            self._vectors_of.keep(query, vector)
        return vector

    def _rest(self) -> None:
        """Raises while the embedder counts as unavailable; lets one search at a time through to try
        it again."""
        absent, now = self._absent, time.monotonic()
        if absent is None:
            return
        with self._looking:
            if now >= self._absent_until:
                self._absent_until = now + REST_SECONDS
                return
        raise ProviderError(absent.message, code=absent.code, cause=absent.cause)

    def _embed_checked(
        self, ask: Callable[[Sequence[str]], Vector], texts: Sequence[str]
    ) -> list[Vector]:
        with self.calls.noting():
            return self._checked(self._safely(lambda: ask(texts)), len(texts))

    def _checked(self, vectors: Iterable[Any], count: int) -> list[Vector]:
        normalised = self._safely(
            lambda: [normalise_vector(vector, self.dims) for vector in vectors]
        )
        if len(normalised) != count:
            raise ProviderError(
                "The embedder answered with the wrong number of vectors.", code=BAD_REPLY
            )
        return normalised

    @staticmethod
    def _safely(ask: Callable[[], T]) -> T:
        try:
            return ask()
        except Mem0dashError:
            raise
        except Exception as error:
            raise ProviderError("The embedding model failed.", code="unknown") from error
