"""What a search by meaning marks in the list and in the inspector, with the real local model."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from accounts.models import Account
from accounts.tests.signing import sign_in
from memories import runtime
from memories.editing import service as services
from memories.engine.engine import Engine
from memories.search.highlights import Mark
from memories.tests.actions import add
from memories.tests.pages import HOSTILE, HTMX, LIST, addresses, assert_inert, text_of
from memories.tests.reading import local_model, reading_engine
from memories.tests.spare_index import SpareIndex
from memories.views.browser import marks

pytestmark = pytest.mark.one_form

COFFEE = "Starts every day with an espresso at breakfast, by the window."


@pytest.fixture(scope="module")
def model() -> Any:
    return local_model()


@pytest.fixture(autouse=True)
def running(db: None, model: Any, spare_index: SpareIndex) -> Iterator[runtime.Runtime]:
    with reading_engine(model, spare_index) as made:
        yield made


@pytest.fixture
def coffee(owner: Any) -> UUID:
    [id_] = add(owner, COFFEE)
    return id_


def inspector(answer: Any) -> str:
    assert answer.status_code == 200
    found = re.search(r'<aside class="card inspector".*?</aside>', text_of(answer))
    assert found is not None
    return found[0]


MARKED = '<mark title="answers “morning”">breakfast</mark>'


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_the_list_marks_what_answers(
    signed_in: Client, coffee: UUID, headers: dict[str, str]
) -> None:
    page = text_of(signed_in.get(f"{LIST}?q=what+in+the+morning", headers=headers))
    assert f"an espresso at {MARKED}, by the window.</a>" in page
    assert page.count("<mark") == 1


@pytest.mark.parametrize(
    "headers", [{}, {**HTMX, "HX-Target": "inspector-slot"}], ids=["page", "htmx"]
)
def test_the_inspector_tells_which_word_answers_which(
    signed_in: Client, coffee: UUID, headers: dict[str, str]
) -> None:
    found = signed_in.get(f"{LIST}?q=window+in+the+morning")
    [way] = set(addresses(found, f"id={coffee}"))
    page = inspector(signed_in.get(way, headers=headers))
    assert f"at {MARKED}, by the" in page
    legend = re.search(r'<ul class="answered".*?</ul>', page)
    assert legend is not None
    told = re.sub(r"<svg.*?</svg> |<[^>]+>", "", legend[0].replace("</li>", "; ")).strip()
    # In the order of the search; what stands there itself needs no arrow.
    assert told == "window; morning is answered by breakfast;"


@pytest.mark.parametrize(
    "query",
    ["", "q=breakfast&mode=words", "q=morning&deleted=yes", "q=Which+port+does+it+use"],
    ids=["no search", "by words", "deleted", "another question"],
)
def test_otherwise_nothing_is_marked(
    signed_in: Client, coffee: UUID, query: str, owner: Any
) -> None:
    if "deleted" in query:
        services.delete_memory(owner, coffee)
    page = signed_in.get(f"{LIST}?{query}&id={coffee}")
    assert COFFEE in inspector(page)
    assert b"<mark" not in page.content and b'class="answered"' not in page.content


def test_while_it_is_off_results_are_as_ever(
    signed_in: Client, coffee: UUID, model: Any, running: runtime.Runtime
) -> None:
    running.engine = Engine(model)
    page = signed_in.get(f"{LIST}?q=morning&id={coffee}")
    assert text_of(page).count(COFFEE) >= 2 and b"<mark" not in page.content


def test_hostile_texts_and_searches_are_inert(signed_in: Client, owner: Any) -> None:
    [id_] = add(owner, f"Drinks coffee {HOSTILE} & tea <b>at</b> <mark>noon</mark>")
    page = signed_in.get(LIST, {"q": f"coffee {HOSTILE} tea <mark>noon</mark> script", "id": id_})
    assert_inert(page)
    html = page.content.decode()
    assert re.findall(r"<mark[^>]*>([^<]*)</mark>", html).count("coffee") == 2
    assert "&lt;b&gt;" in html and "<b>at" not in html
    assert not re.search(r"<mark(?! title=\"answers “[^\"<>]*”\">)", html)


def test_another_project_is_not_read(signed_in: Client, charlie: Account, coffee: UUID) -> None:
    page = sign_in(charlie).get(f"{LIST}?q=morning&id={coffee}")
    assert b"<mark" not in page.content and b"espresso" not in page.content


def test_a_long_text_is_cut_between_its_marks(signed_in: Client, owner: Any) -> None:
    text = "Tea is on the list. " * 30
    [id_] = add(owner, text)
    page = signed_in.get(f"{LIST}?q=tea&id={id_}").content.decode()
    row = re.search(r'<a class="mem-text"[^>]*>(.*?)</a>', page, re.S)
    assert row is not None
    assert row[1].count("<mark") == 20
    assert re.sub(r"<[^>]+>", "", row[1]) == f"{text[:399]}…"
    whole = re.search(r'id="memory-text">(.*?)</p>', page, re.S)
    assert whole is not None and re.sub(r"<[^>]+>", "", whole[1]) == text


@pytest.mark.parametrize(
    ("at_most", "shown"),
    [
        (0, "ab <mark>tea</mark> cd"),
        (9, "ab <mark>tea</mark> cd"),
        (8, "ab <mark>tea</mark> …"),
        (7, "ab <mark>tea</mark>…"),
        (6, "ab te…"),
    ],
)
def test_a_word_that_is_cut_has_no_mark(at_most: int, shown: str) -> None:
    made = marks.html("ab tea cd", [Mark(3, 6, ("drink",))], at_most=at_most)
    assert made.replace(' title="answers “drink”"', "") == shown


def test_one_word_may_answer_several() -> None:
    made = marks.html("tea", [Mark(0, 3, ("drink", 'hot"'))])
    assert made == '<mark title="answers “drink” and “hot&quot;”">tea</mark>'
