"""The order in which memories are found, on the regression set and the real local model.

Order, not tuned numbers: the ranker has to beat meaning alone and words alone, and late interaction
the ranker without it.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from accounts.models import Project
from accounts.queries import project_view
from core.principal import ALL_SCOPES, Principal
from memories import runtime
from memories.engine.engine import Engine
from memories.engine.local_embedder import load_embedder
from memories.engine.opening import as_reader
from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer
from memories.tests import finding
from memories.tests.finding import Question

# The tests read figures alone, but the tables are made only where one says that it wants them.
pytestmark = [pytest.mark.django_db, pytest.mark.one_form]

RANKERS = {
    "ranker": finding.full,
    "first step": finding.first_step,
    "meaning": finding.dense_only,
    "words": finding.lexical_only,
}


Stored = Callable[[Principal], list[Question]]
LANGUAGES = ("german", "arabic", "russian", "korean", "chinese")


def measured(stored: Stored, root: Path) -> dict[tuple[str, str, str], float]:
    """Each measure of each ranker for each kind of question; what is stored is rolled back."""
    embedder = load_embedder()
    if embedder is None:
        message = f"no model in {settings.MODEL_DIR}: run `make embedder`"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    found: dict[tuple[str, str, str], float] = {}
    with transaction.atomic():
        indexer = Indexer(root, embedder.model_key, embedder.dims, open_index=EdgeIndex)
        runtime.install(runtime.Runtime(Engine(embedder, reader=as_reader(embedder)), indexer))
        project = project_view(Project.objects.get(slug="default"))
        caller = Principal(project=project, scopes=ALL_SCOPES, via="internal", is_owner=True)
        questions = stored(caller)
        for kind in {"all", *(q.kind for q in questions if q.relevant)}:
            chosen = [q for q in questions if kind in ("all", q.kind)]
            for name, ranker in RANKERS.items():
                for at in (3, 10):
                    share = finding.recall(ranker, caller, chosen, at)
                    found[f"recall@{at}", name, kind] = share
                found["mrr", name, kind] = finding.reciprocal_rank(ranker, caller, chosen)
        runtime.install(None)
        indexer.index.close()
        transaction.set_rollback(True)
    return found


@pytest.fixture(scope="module")
def figures(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """`figures(measure, ranker, kind)`."""
    with django_db_blocker.unblock():
        found = measured(finding.load, tmp_path_factory.mktemp("index"))
    yield lambda measure, ranker, kind="all": found[measure, ranker, kind]


@pytest.fixture(scope="module")
def abroad(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """The same of memories and questions in other languages than the model's."""
    with django_db_blocker.unblock():
        found = measured(finding.load_languages, tmp_path_factory.mktemp("index"))
    yield lambda measure, ranker, kind: found[measure, ranker, kind]


@pytest.mark.parametrize("measure", ["recall@3", "recall@10", "mrr"])
def test_the_ranker_beats_meaning_alone_and_words_alone(figures: Any, measure: str) -> None:
    assert figures(measure, "ranker") > figures(measure, "meaning") + 0.03
    assert figures(measure, "ranker") > figures(measure, "words") + 0.03


# One question of the smallest kinds, of 13 to 21: what falls from the first place to the second.
NOISE = 0.06


@pytest.mark.parametrize("measure", ["recall@3", "recall@10", "mrr"])
def test_late_interaction_finds_more_than_the_ranker_without_it(figures: Any, measure: str) -> None:
    assert figures(measure, "ranker") > figures(measure, "first step") + 0.02


@pytest.mark.parametrize("kind", ["paraphrase", "follow_up", "adversarial"])
def test_late_interaction_finds_paraphrases_and_follow_ups_sooner(figures: Any, kind: str) -> None:
    for measure in ("recall@3", "mrr"):
        assert figures(measure, "ranker", kind) > figures(measure, "first step", kind)
    assert figures("recall@10", "ranker", kind) >= figures("recall@10", "first step", kind)


@pytest.mark.parametrize("kind", ["date", "exact_name", "standalone"])
def test_late_interaction_loses_nowhere(figures: Any, kind: str) -> None:
    for measure in ("recall@3", "recall@10", "mrr"):
        assert figures(measure, "ranker", kind) > figures(measure, "first step", kind) - NOISE


def test_a_follow_up_is_found_through_the_turns_around_it(figures: Any) -> None:
    for at in ("recall@3", "recall@10"):
        assert figures(at, "ranker", "follow_up") > figures(at, "meaning", "follow_up") + 0.2


def test_a_date_in_the_question_finds_what_was_said_on_that_day(figures: Any) -> None:
    assert figures("recall@10", "ranker", "date") > figures("recall@10", "meaning", "date") + 0.1


def test_an_answer_is_preferred_to_the_question_that_repeats_the_query(figures: Any) -> None:
    kind = "adversarial"
    assert figures("recall@10", "ranker", kind) > figures("recall@10", "meaning", kind)
    assert figures("recall@10", "ranker", kind) > figures("recall@10", "words", kind)


def test_lone_facts_and_exact_names_lose_nothing_to_the_conversations_around(figures: Any) -> None:
    for kind in ("standalone", "exact_name"):
        assert figures("recall@10", "ranker", kind) >= figures("recall@10", "meaning", kind)


def test_a_paraphrase_is_found_far_better_than_by_words(figures: Any) -> None:
    kind = "paraphrase"
    assert figures("recall@10", "ranker", kind) > figures("recall@10", "words", kind) + 0.5


# --- Other languages than the model's ------------------------------------------------------------
@pytest.mark.parametrize("language", LANGUAGES)
def test_in_other_languages_late_interaction_finds_no_less(abroad: Any, language: str) -> None:
    for measure in ("recall@3", "recall@10", "mrr"):
        assert abroad(measure, "ranker", language) >= abroad(measure, "first step", language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_in_other_languages_every_answer_is_found(abroad: Any, language: str) -> None:
    assert abroad("recall@10", "ranker", language) > 0.95
