"""Token states are of one text: those of another are never compared, and are made anew."""

import pytest

from memories.backfill import token_states as token_work
from memories.models import Memory, MemoryTokens
from memories.search import highlights as marking
from memories.search.candidates import CandidateReader
from memories.search.service import search_memories
from memories.tests.actions import add
from memories.tests.token_words import WordReader, kept, right, with_reader
from memories.texts import fold


class PieceReader(WordReader):
    """Also tells the word pieces of a text without reading it."""

    def pieces(self, text):
        return self.read([text])[0].tokens.pieces


@pytest.fixture
def reader(engine):
    return with_reader(engine, PieceReader())


def as_an_older_version(id_, text: str) -> None:
    """Changes the text as a version does that knows no token states."""
    Memory.objects.filter(id=id_).update(text=text, text_fold=fold(text))


def test_states_of_a_former_text_are_never_compared(owner, engine, reader):
    ids = [add(owner, f"green tea of house number {n}")[0] for n in range(8)]
    before = {hit.memory.id: hit.terms for hit in search_memories(owner, "green tea").hits}
    assert any("late" in terms for terms in before.values())
    as_an_older_version(ids[0], "cold coffee")
    texts = {row.id.hex: row.text for row in Memory.objects.all()}
    seen = CandidateReader.tokens(texts, reader.states_key)
    assert seen.keys() == {id_.hex for id_ in ids[1:]}
    memory = Memory.objects.get(id=ids[0])
    assert marking.mark_words("green tea", [memory]) == {}


def test_states_of_a_former_text_are_found_and_made_anew(owner, engine, reader):
    ids = [add(owner, f"green tea number {n}")[0] for n in range(4)]
    as_an_older_version(ids[0], "cold coffee with two pieces of sugar")
    assert kept(ids[0]) != right(ids[0])
    assert token_work.check_texts(reader.states_key, reader) == 1
    assert token_work.make_missing(engine) == 1
    assert [kept(id_) for id_ in ids] == [right(id_) for id_ in ids]
    assert token_work.check_texts(reader.states_key, reader) == 0


def test_states_of_before_are_recognised_by_their_pieces_and_not_read_anew(owner, engine, reader):
    ids = [add(owner, f"green tea number {n}")[0] for n in range(4)]
    as_an_older_version(ids[0], "cold coffee with two pieces of sugar")
    MemoryTokens.objects.update(text_sum=None)
    assert token_work.check_texts(reader.states_key, None) == 0  # nobody can tell
    assert token_work.check_texts(reader.states_key, reader) == 1
    assert MemoryTokens.objects.filter(text_sum=None).count() == 0
    reader.read_texts.clear()
    assert token_work.make_missing(engine) == 1
    assert len(reader.read_texts) == 1
    assert kept(ids[0]) == right(ids[0])


def test_what_was_made_of_the_new_text_meanwhile_stays(owner, engine, reader):
    [one] = add(owner, "green tea")
    row = MemoryTokens.objects.select_related("memory").get()
    row.text_sum = 1  # as it was read a moment ago
    assert token_work._check([row], reader) == 1
    assert kept(one) == right(one)
