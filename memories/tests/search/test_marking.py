"""Which words of a memory answer a search, with the real local model."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from memories import runtime
from memories.editing import service as services
from memories.engine.engine import Engine
from memories.models import Memory, MemoryTokens
from memories.search.highlights import mark_words
from memories.tests.actions import add
from memories.tests.reading import local_model, reading_engine
from memories.tests.spare_index import SpareIndex

pytestmark = pytest.mark.one_form

COFFEE = "Starts every day with an espresso at breakfast."


@pytest.fixture(scope="module")
def model() -> Any:
    return local_model()


@pytest.fixture(autouse=True)
def running(db: None, model: Any, spare_index: SpareIndex) -> Iterator[runtime.Runtime]:
    with reading_engine(model, spare_index) as made:
        yield made


def marks(owner: Any, query: str, text: str, **options: Any) -> list[tuple[str, Sequence[str]]]:
    """What is marked of the text, and what it answers."""
    [id_] = add(owner, text, **options)
    memory = Memory.objects.get(id=id_)
    found = mark_words(query, [memory]).get(id_, ())
    return [(memory.text[mark.start : mark.end], mark.answers) for mark in found]


@pytest.mark.parametrize(
    ("query", "text", "asked", "answer"),
    [
        ("What does she have in the morning?", COFFEE, "morning", "breakfast"),
        ("Which injury?", "Had a stress fracture in the left foot.", "injury", "fracture"),
        ("Any pets?", "Has a cat called Pepper.", "pets", "cat"),
        ("Which vehicle?", "Owns a boat, and a car in the garage.", "vehicle", "car"),
        # Of two pieces, "all" and "##ergy".
        ("food allergy", "Allergic to penicillin since 2019.", "allergy", "Allergic"),
    ],
)
def test_another_word_of_the_same_meaning_is_marked(
    owner: Any, query: str, text: str, asked: str, answer: str
) -> None:
    assert (answer, (asked,)) in marks(owner, query, text)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("Which programming language?", "Prefers window seats on long flights."),
        ("When does the choir sing?", "Vegetarian; does not eat mushrooms."),
        # Numbers and months are near all others of their kind, but no answer.
        ("What happened in March 2023?", "Bought 24 chairs in October 2024."),
        # Stop words and punctuation are near everything.
        ("sister", "She said: that is it, and so be it."),
        ("Wo wohnt die Großmutter jetzt?", "Lives in Gothenburg."),
        ("the and of", COFFEE),
        (" ", COFFEE),
    ],
)
def test_what_does_not_answer_is_not_marked(owner: Any, query: str, text: str) -> None:
    assert marks(owner, query, text) == []


def test_the_same_word_is_marked_wherever_it_stands(owner: Any) -> None:
    text = "  Drinks green tea (TEA!) in 2024, and\nnever coffee after tea."
    found = marks(owner, "tea 2024", text)
    assert [word for word, _ in found] == ["tea", "TEA", "2024", "tea"]
    assert {answers for word, answers in found if word != "2024"} == {("tea",)}


def test_a_word_of_the_query_answers_nothing_but_itself(owner: Any) -> None:
    found = marks(owner, "What does Mara drink?", "Mara has an espresso, and never tea.")
    assert ("Mara", ("Mara",)) in found


def test_the_day_that_is_read_with_a_turn_is_not_of_its_text(owner: Any) -> None:
    [id_] = add(
        owner,
        "We went swimming.",
        entities={"run_id": "summer"},
        metadata={"created_at": "2024-07-11T09:00:00+00:00"},
    )
    memory = Memory.objects.get(id=id_)
    [mark] = mark_words("swimming in July 2024", [memory])[id_]
    assert memory.text[mark.start : mark.end] == "swimming"


def test_letters_outside_ascii_do_not_shift_the_marks(owner: Any) -> None:
    text = "Тетя, 王 and 🦊 – Żaneta’s naïve café sells coffee \ud83d."
    found = marks(
        owner, "coffee", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
    assert [word for word, _ in found] == ["coffee"]


def test_each_memory_has_its_own_marks(owner: Any) -> None:
    ids = add(owner, "Drinks tea.", "Owns a boat.", "Hates tea.")
    found = mark_words("tea", list(Memory.objects.filter(id__in=ids)))
    assert found.keys() == {ids[0], ids[2]}


def test_a_text_that_was_changed_has_no_marks_of_the_old_one(owner: Any) -> None:
    [id_] = add(owner, "Drinks tea at four.")
    states = MemoryTokens.objects.get(memory_id=id_)
    before = Memory.objects.get(id=id_)
    services.update_memory(owner, id_, text="Since the summer she likes tea more than ever.")
    after = Memory.objects.get(id=id_)
    assert [after.text[m.start : m.end] for m in mark_words("tea", [after])[id_]] == ["tea"]
    # Whoever read the row a moment ago holds the old text, and the new states.
    assert mark_words("tea", [before]) == {}
    MemoryTokens.objects.filter(memory_id=id_).update(data=states.data)
    assert mark_words("tea", [after]) == {}


def test_without_states_of_this_model_there_are_none(owner: Any) -> None:
    [id_] = add(owner, "Drinks tea.")
    memory = Memory.objects.get(id=id_)
    MemoryTokens.objects.update(states_key="another")
    assert mark_words("tea", [memory]) == {}
    MemoryTokens.objects.all().delete()
    assert mark_words("tea", [memory]) == {}


def test_while_it_is_off_or_fails_the_page_does_without(
    owner: Any, running: runtime.Runtime, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [id_] = add(owner, "Drinks tea.")
    memory = Memory.objects.get(id=id_)
    assert mark_words("tea", [memory])

    def fail(query: str) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(model, "read_query", fail)
        assert mark_words("some tea", [memory]) == {}
    assert mark_words("some tea", [memory])
    running.engine = Engine(model)
    assert mark_words("tea", [memory]) == {}
    runtime.install(None)
    assert mark_words("tea", [memory]) == {}


def test_a_page_of_results_costs_one_statement(owner: Any, django_assert_num_queries: Any) -> None:
    ids = add(owner, *(f"Drinks tea number {number}" for number in range(12)))
    memories = list(Memory.objects.filter(id__in=ids))
    with django_assert_num_queries(1):
        assert len(mark_words("tea", memories)) == 12
