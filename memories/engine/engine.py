"""What the domain asks of the models behind it: vectors for texts, and whether there is an LLM."""

from collections.abc import Sequence
from typing import Any

from mem0dash.errors import Mem0dashError, ProviderError
from memories.engine.embedders import Embedder, QueryCache
from memories.records import Vector, checked_vector


class Engine:
    """The embedder and the LLM in use. Without an embedder search is by words; without an LLM
    every add is verbatim."""

    def __init__(self, embedder: Embedder | None, llm: Any = None) -> None:
        self.embedder = embedder
        self.llm = llm
        self._queries = QueryCache()

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
        return [*self._embed(self.embedder, texts)]

    def embed_query(self, query: str) -> Vector | None:
        """The unit vector of a query, None without an embedder; errors as `embed`."""
        if self.embedder is None:
            return None
        known = self._queries.get(query)
        if known is None:
            [known] = self._embed(self.embedder, [query])
            self._queries.keep(query, known)
        return known

    def _embed(self, embedder: Embedder, texts: Sequence[str]) -> list[Vector]:
        try:
            vectors = embedder.embed(texts)
            if len(vectors) != len(texts):
                raise ProviderError("The embedder answered with the wrong number of vectors.")
            return [checked_vector(vector, self.dims) for vector in vectors]
        except Mem0dashError:
            raise
        except Exception as error:
            raise ProviderError("The embedding model failed.") from error
