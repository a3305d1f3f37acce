"""Search by words from the database alone, while the embedded index is built again or closed."""

import re
from collections import Counter
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet

from memories.index.base import Hits
from memories.index.payload import Bm25Encoder
from memories.models import Memory
from memories.readings import Vector
from memories.search import substring as keyword
from memories.storage import substring_index as fulltext
from memories.storage.index_only import IndexOnlySource
from memories.texts import fold

# Of a long query, so many of its words are looked for: the longest, which are the rarest.
MOST_WORDS: Final = 8
_WORD: Final = re.compile(r"\w+")


@lru_cache(maxsize=1)
def _words() -> Bm25Encoder:
    return Bm25Encoder()


class WordsInSql:
    """What a search asks of an index, answered for the memories in `rows`: nothing by meaning."""

    def __init__(self, rows: QuerySet[Memory]) -> None:
        self._rows = rows

    def search(self, vector: Vector, **options: Any) -> Hits:
        """Nothing: vectors are compared by the index alone."""
        return []

    def search_text(self, query: str, *, limit: int, **options: Any) -> Hits:
        """Memories that hold words of the query, those with the most of them first; of each word
        the `limit` that were changed last."""
        counts: Counter[UUID] = Counter()
        newest = (("updated_at", True), ("id", True))
        for word in self._terms(query):
            source = IndexOnlySource(self._rows, index="memory_updated")
            counts.update(keyword.SubstringSearch(source, word).ids(newest, limit=limit, offset=0))
        return [(id_, float(count)) for id_, count in counts.most_common(limit)]

    def words(self, text: str) -> frozenset[int]:
        return _words().of(text)

    def _terms(self, query: str) -> list[str]:
        """The words of a query that say something, else all of them."""
        every = list(dict.fromkeys(_WORD.findall(fold(query))))
        telling = [word for word in every if self.words(word)] or every or [query]
        # Shorter ones would read the newest memories one by one.
        terms = [word for word in telling if len(word) >= fulltext.SHORTEST] or telling
        return sorted(terms, key=len, reverse=True)[:MOST_WORDS]
