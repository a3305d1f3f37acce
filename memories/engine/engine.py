"""What the domain asks of the models behind it: vectors for texts, and whether there is an LLM."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from mem0dash.errors import Mem0dashError, ProviderError
from memories.engine.calls import Calls
from memories.engine.catalogue import Choice
from memories.engine.embedders import Embedder, QueryCache
from memories.records import BAD_REPLY, Vector, checked_vector

if TYPE_CHECKING:
    from memories.engine.remote import Llm  # reads settings that are not there yet

# Searches do not wait for an embedder that has just failed to answer: they are by words meanwhile.
REST_SECONDS: Final = 10.0
_ABSENT: Final = frozenset({"provider_timeout", "provider_unavailable", "provider_rate_limited"})


class Engine:
    """The embedder and the LLM in use. Without an embedder search is by words; without an LLM
    every add is verbatim. `chosen` is what the embedder was made of, None for the local model."""

    def __init__(
        self, embedder: Embedder | None, llm: "Llm | None" = None, chosen: Choice | None = None
    ) -> None:
        self.embedder = embedder
        self.llm = llm
        self.chosen = chosen
        # Of the embedder.
        self.calls = Calls()
        self._queries = QueryCache()
        self._absent: ProviderError | None = None
        self._absent_until = 0.0
        self._looking = threading.Lock()

    @property
    def model_key(self) -> str:
        return self.embedder.model_key if self.embedder else ""

    @property
    def dims(self) -> int:
        return self.embedder.dims if self.embedder else 0

    def embed(self, texts: Sequence[str]) -> list[Vector | None]:
        """One unit vector for each text, in one batch; all None without an embedder.

        ProviderError when the embedder fails or answers with something unusable.
        """
        if self.embedder is None or not texts:
            return [None] * len(texts)
        vectors = self._checked(self.embedder.embed, texts)
        self._absent = None
        return [*vectors]

    def embed_query(self, query: str) -> Vector | None:
        """The unit vector of a query, None without an embedder; errors as `embed`."""
        if self.embedder is None:
            return None
        known = self._queries.get(query)
        if known is None:
            self._rest()
            try:
                embed = getattr(self.embedder, "embed_query", None)
                ask = self.embedder.embed if embed is None else lambda _: embed(query)
                [known] = self._checked(ask, [query])
            except ProviderError as error:
                if error.code in _ABSENT:
                    self._absent, self._absent_until = error, time.monotonic() + REST_SECONDS
                raise
            self._absent = None
            self._queries.keep(query, known)
        return known

    def _rest(self) -> None:
        """Raises while the embedder is thought to be away; one search at a time looks whether it
        still is."""
        absent, now = self._absent, time.monotonic()
        if absent is None:
            return
        with self._looking:
            if now >= self._absent_until:
                self._absent_until = now + REST_SECONDS
                return
        raise ProviderError(absent.message, code=absent.code, cause=absent.cause)

    def _checked(
        self, ask: Callable[[Sequence[str]], Vector], texts: Sequence[str]
    ) -> list[Vector]:
        with self.calls.noted():
            return self._vectors(ask, texts)

    def _vectors(
        self, ask: Callable[[Sequence[str]], Vector], texts: Sequence[str]
    ) -> list[Vector]:
        try:
            vectors = ask(texts)
            if len(vectors) != len(texts):
                raise ProviderError(
                    "The embedder answered with the wrong number of vectors.", code=BAD_REPLY
                )
            return [checked_vector(vector, self.dims) for vector in vectors]
        except Mem0dashError:
            raise
        except Exception as error:
            raise ProviderError("The embedding model failed.", code="unknown") from error
