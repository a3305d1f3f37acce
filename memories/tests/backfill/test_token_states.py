"""Token states live and die with the text that they are of."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.utils import timezone

from accounts.queries import project_view
from core.errors import NotFoundError, ProviderError
from memories import runtime
from memories.backfill import vectors
from memories.background import retention
from memories.demo import service as demo
from memories.editing import service as services
from memories.engine.engine import Engine
from memories.models import Memory, MemoryTokens, MemoryVector, Revision
from memories.readings import DIMS, pack_states, unpack_states
from memories.review import service as reviewing
from memories.search.service import search_memories
from memories.storage.rows import text_to_embed
from memories.tests.actions import add, settled
from memories.tests.providing import use_llm
from memories.tests.reading import local_model, reading_engine
from memories.tests.token_words import WordReader, kept, right, with_reader

TEXTS = [
    "Lisbon",
    "I moved to Lisbon in March and rent a flat near the river.",
    "The invoices are stored in the Porto office. " * 12,
    "😀 " * 40,
    "Überraschung: 東京で会いましょう — до встречи!",
    "   deploy with `make run`; the port is 8000  ",
    "",
    "a half pair \ud83d of it",
]


@pytest.fixture(scope="module")
def model() -> Any:
    return local_model()


@pytest.fixture
def reader(engine: runtime.Runtime) -> WordReader:
    return with_reader(engine, WordReader())


def last(id_: Any) -> Revision:
    return Revision.objects.filter(memory_id=id_).latest("id")


# --- The real model ------------------------------------------------------------------------------
def test_states_do_not_depend_on_the_texts_beside_and_come_with_the_usual_vector(model):
    together = model.read(TEXTS * 5)  # so many run on several threads
    for text, found in zip(TEXTS * 5, together, strict=True):
        [alone] = model.read([text])
        assert pack_states(alone.tokens) == pack_states(found.tokens)
        assert np.array_equal(alone.vector, found.vector)
    assert np.array_equal(model.embed(TEXTS), np.stack([one.vector for one in together[:8]]))


def test_states_are_unit_vectors_of_64_dimensions_one_for_each_word_piece(model):
    for text, found in zip(TEXTS, model.read(TEXTS), strict=True):
        pieces, states = unpack_states(pack_states(found.tokens))
        assert states.shape == (len(pieces), DIMS)
        assert len(pieces) == len(model.words(text)) <= 254
        assert np.abs(np.linalg.norm(states, axis=1) - 1).max(initial=0) < 0.05


@pytest.mark.parametrize(
    ("query", "word", "text", "answer"),
    [
        ("What coffee do I like?", "coffee", "She has an espresso after lunch.", "espresso"),
        ("Where is my doctor?", "doctor", "The physician is here on Mondays.", "physician"),
        ("Which animals live here?", "animals", "A garden, two cats and an old car.", "cats"),
    ],
)
def test_a_word_of_a_query_finds_the_word_that_answers_it(model, query, word, text, answer):
    _, asked = model.read_query(query)
    [found] = model.read([text])
    likeness = found.tokens.vectors @ asked.vectors[asked.words.index(word)]
    start, end = model.words(text)[int(likeness.argmax())]
    assert text[start:end] == answer


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted on Linux")
def test_reading_starts_no_threads_of_numpys_own():
    """They would take twice the CPU, from the threads that answer requests."""
    script = (
        "import os, mem0dash.settings, numpy\n"
        "numpy.ones((500, 500)) @ numpy.ones((500, 500))\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    free = {name: value for name, value in os.environ.items() if "BLAS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", script], env=free, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


def test_an_add_keeps_the_states_of_what_the_embedder_reads(owner, model, spare_index):
    with reading_engine(model, spare_index) as running:
        alone = add(owner, "I drink oat milk.")
        turns = add(owner, "Where do you live?", "In Lisbon.", entities={"run_id": "r"})
        for row in Memory.objects.filter(id__in=[*alone, *turns]):
            [made] = model.read([text_to_embed(row)])
            assert kept(row.id) == pack_states(made.tokens)
        assert "(" in text_to_embed(Memory.objects.get(id=turns[0]))  # a turn carries its day
        assert set(MemoryTokens.objects.values_list("states_key", flat=True)) == {model.states_key}
        assert running.engine.states_key == model.states_key


# --- What is stored, changed, deleted ------------------------------------------------------------
def test_extracted_memories_have_their_states(owner, engine, reader, provider):
    use_llm(engine, provider)
    ids = add(owner, "I love green tea. My cat is called Milo.")
    assert len(ids) == 2
    assert all(kept(id_) == right(id_) for id_ in ids)


def test_a_new_text_has_new_states_and_so_has_its_undo(owner, reader):
    [one] = add(owner, "green tea")
    before = kept(one)
    services.update_memory(owner, one, text="a long walk by the river")
    assert kept(one) == right(one) != before
    services.undo_change(owner, one, last(one).id)
    assert Memory.objects.get(id=one).text == "green tea"
    assert kept(one) == right(one) == before


def test_what_is_no_text_leaves_the_states_as_they_are(owner, reader):
    [one] = add(owner, "green tea")
    MemoryTokens.objects.update(data=b"as it was")
    services.update_memory(owner, one, metadata={"colour": "green"})
    reviewing.set_confidence(owner, one, "high")
    assert kept(one) == b"as it was"


def test_a_text_that_cannot_be_read_changes_nothing(owner, reader):
    [one] = add(owner, "green tea")
    before = kept(one)

    def fail() -> None:
        raise RuntimeError("the model broke")

    reader.meanwhile = fail
    with pytest.raises(ProviderError):
        services.update_memory(owner, one, text="black tea")
    assert (Memory.objects.get(id=one).text, kept(one)) == ("green tea", before)


def test_the_bin_keeps_the_states_and_a_restored_memory_has_them(owner, reader):
    [one] = add(owner, "green tea")
    before = kept(one)
    services.delete_memory(owner, one)
    assert kept(one) == before
    services.restore_memories(owner, [one])
    assert kept(one) == before
    services.undo_change(owner, one, last(one).id)
    services.undo_change(owner, one, last(one).id)
    assert Memory.objects.get(id=one).deleted_at is None
    assert kept(one) == before


def test_erasing_takes_the_states_of_what_it_erases_and_no_other(owner, reader):
    one, other, binned = add(owner, "green tea", "black tea", "white tea")
    services.delete_memory(owner, binned)
    services.erase_memories(owner, [one, binned])
    assert (kept(one), kept(binned)) == (None, None)
    assert kept(other) == right(other)


def test_a_purge_takes_the_states(owner, project, engine, reader):
    one, other = add(owner, "green tea", "black tea")
    services.delete_memory(owner, one)
    settled(engine)
    assert retention.purge_deleted(project, older_than=timezone.now() + timedelta(seconds=1)) == 1
    assert set(MemoryTokens.objects.values_list("memory_id", flat=True)) == {other}


def test_sample_data_comes_with_states_and_goes_with_them(owner, reader):
    count = demo.fill_project(owner)
    assert MemoryTokens.objects.count() == count
    some = Memory.objects.exclude(role="").first()
    assert some is not None and kept(some.id) == right(some.id)
    assert demo.remove_demo(owner) == count
    assert MemoryTokens.objects.count() == 0


def test_vectors_made_later_bring_their_states(owner, engine, reader):
    [one] = add(owner, "green tea")
    MemoryVector.objects.all().delete()
    MemoryTokens.objects.all().delete()
    assert vectors.embed_missing(engine) == 1
    assert kept(one) == right(one)


def test_nobody_takes_the_states_of_another_project(owner, other_project, reader):
    [one] = add(owner, "green tea")
    stranger = replace(owner, project=project_view(other_project))
    assert services.erase_memories(stranger, [one]) == 0
    with pytest.raises(NotFoundError):
        services.update_memory(stranger, one, text="black tea")
    assert kept(one) == right(one)


# --- A model that fails --------------------------------------------------------------------------
class Failing(WordReader):
    """Cannot read a query."""

    def read_query(self, query: str) -> Any:
        raise RuntimeError("out of memory")


def test_beside_another_embedder_a_failing_model_does_not_take_meaning_away(
    owner, engine, embedder
):
    add(owner, "green tea")
    engine.engine = Engine(embedder, reader=Failing())
    found = search_memories(owner, "green tea")
    assert (found.mode, found.problem) == ("semantic", "")
    assert [hit.memory.text for hit in found.hits] == ["green tea"]
    engine.engine.reader = WordReader()  # nothing of the failure is remembered
    assert engine.engine.query_tokens("green tea") is not None


def test_how_the_embedders_searches_end_is_noted(owner, engine, reader):
    add(owner, "green tea")
    engine.engine.calls.answered_at = None
    search_memories(owner, "green")
    assert engine.engine.calls.answered_at is not None
    with_reader(engine, Failing())
    with suppress(ProviderError):
        search_memories(owner, "green")
    assert engine.engine.calls.failing_since is not None
