"""Which words of a memory answer which words of a search by meaning: what pages mark."""

import calendar
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np

from core.errors import IndexUnavailableError
from memories import runtime
from memories.models import Memory, MemoryTokens
from memories.readings import QueryTokens, TokenStates, text_sum, unpack_states
from memories.storage.rows import text_to_embed

if TYPE_CHECKING:
    from memories.engine.token_reader import TokenReader

logger = logging.getLogger(__name__)

# From this cosine on a word is an answer. Of the pairs of different words that the regression set
# for finding gives, most above it belong together (tablets and pill, 0.63; snack and banana, 0.55;
# lock and door, 0.51); below it they hardly do (lily and poisonous, 0.45; kitchen and carpenter,
# 0.44). The same word is at 0.7 and more. tests/test_marking.py holds some of them to it.
ANSWERS: Final = 0.5
# To the model all numbers are alike, and so are all months: only the same one answers them.
_MONTHS: Final = frozenset(name.casefold() for name in calendar.month_name if name)

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mark:
    """A word of a memory's text, from character `start` to before `end`, and the words of the
    query that it answers, in their order."""

    start: int
    end: int
    answers: tuple[str, ...]


def mark_words(query: str, memories: Sequence[Memory]) -> dict[UUID, tuple[Mark, ...]]:
    """The marks of each memory that has any, in the order of its text.

    They come from token states that are kept: none without the local model, for memories whose
    states are still to be made, and for a query that the model knows too little of. Whatever fails
    means no marks: what was found is shown without them. Asks no provider; one statement.
    """
    try:
        engine = runtime.get_runtime().engine
    except IndexUnavailableError:
        return {}
    reader = engine.reader
    if reader is None or not memories or not query.strip():
        return {}
    try:
        tokens = engine.query_tokens(query)
        return {} if tokens is None else _of_each(reader, tokens, memories)
    except Exception:
        logger.exception("words of search results cannot be marked")
        return {}


def _of_each(
    reader: "TokenReader", tokens: QueryTokens, memories: Sequence[Memory]
) -> dict[UUID, tuple[Mark, ...]]:
    by_id = {memory.id: memory for memory in memories}
    rows = MemoryTokens.objects.filter(memory_id__in=list(by_id), states_key=reader.states_key)
    by_memory = {}
    for row in rows:
        memory = by_id[row.memory_id]
        text = text_to_embed(memory)
        if not row.data or row.text_sum != text_sum(memory.text):
            continue
        states, spans = unpack_states(row.data), reader.words(text)
        if len(spans) != len(states.pieces):
            continue  # They are of another text: it was changed a moment ago.
        marks = _marks(tokens, states, spans, text)
        # Beyond the memory's own text stands its day.
        if own := tuple(mark for mark in marks if mark.end <= len(memory.text)):
            by_memory[memory.id] = own
    return by_memory


def _marks(
    tokens: QueryTokens, states: TokenStates, spans: Sequence[Span], text: str
) -> list[Mark]:
    from memories.engine.token_reader import STOP_WORDS  # the tokenizer, which a start can spare

    starts = [place for place, span in enumerate(spans) if not place or span != spans[place - 1]]
    places = [spans[start] for start in starts]
    words = [text[start:end].casefold() for start, end in places]
    # [pieces of the text, pieces of the query], and then [words of the text, pieces of the query].
    cosines = states.vectors @ tokens.vectors.T
    cosines = np.maximum.reduceat(cosines, starts, axis=0).clip(min=0)
    # A word of the query itself answers no other word: "Mara" is near everything about her.
    query_words = STOP_WORDS | {word.casefold() for word in tokens.words}
    answers: dict[Span, list[str]] = {}
    first = 0
    for query_word, group in itertools.groupby(tokens.words):
        last = first + len(list(group))
        may = [_may_answer(query_word.casefold(), word, query_words) for word in words]
        # Of several pieces (all-ergy) one that is near says more than one that is not.
        near = np.where(may, np.sqrt((cosines[:, first:last] ** 2).mean(axis=1)), 0.0)
        if near.max() >= ANSWERS:
            best = words[int(near.argmax())]
            for place, word in zip(places, words, strict=True):
                if word == best:
                    answers.setdefault(place, []).append(query_word)
        first = last
    return [Mark(*span, tuple(dict.fromkeys(answers[span]))) for span in sorted(answers)]


def _may_answer(query_word: str, word: str, query_words: frozenset[str]) -> bool:
    """Whether `word` of the text may answer `query_word`; both in lower case."""
    if word == query_word:
        return True
    if query_word in _MONTHS or any(letter.isdigit() for letter in query_word):
        return False
    return word not in query_words and any(letter.isalnum() for letter in word)
