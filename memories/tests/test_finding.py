"""The order in which memories are found, on the regression set and the real local model.

Order, not tuned numbers: the ranker has to beat meaning alone and words alone.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from accounts.models import Project
from accounts.queries import project_view
from mem0dash.principal import ALL_SCOPES, Principal
from memories import runtime
from memories.engine.embedders import load_embedder
from memories.engine.engine import Engine
from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer
from memories.tests import finding

RANKERS = {
    "ranker": finding.full,
    "meaning": finding.dense_only,
    "words": finding.lexical_only,
}


@pytest.fixture(scope="module")
def figures(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """`figures(measure, ranker, kind)`; everything is measured once, then rolled back."""
    embedder = load_embedder()
    if embedder is None:
        message = f"no model in {settings.MODEL_DIR}: run `make embedder`"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    measured: dict[tuple[str, str, str], float] = {}
    with django_db_blocker.unblock(), transaction.atomic():
        root = tmp_path_factory.mktemp("index")
        indexer = Indexer(root, embedder.model_key, embedder.dims, open_index=EdgeIndex)
        runtime.install(runtime.Runtime(Engine(embedder), indexer))
        project = project_view(Project.objects.get(slug="default"))
        caller = Principal(project=project, scopes=ALL_SCOPES, via="internal", is_owner=True)
        questions = finding.load(caller)
        for kind in {"all", *(q.kind for q in questions if q.relevant)}:
            chosen = [q for q in questions if kind in ("all", q.kind)]
            for name, ranker in RANKERS.items():
                for at in (3, 10):
                    share = finding.recall(ranker, caller, chosen, at)
                    measured[f"recall@{at}", name, kind] = share
                measured["mrr", name, kind] = finding.reciprocal_rank(ranker, caller, chosen)
        runtime.install(None)
        indexer.index.close()
        transaction.set_rollback(True)
    yield lambda measure, ranker, kind="all": measured[measure, ranker, kind]


@pytest.mark.parametrize("measure", ["recall@3", "recall@10", "mrr"])
def test_the_ranker_beats_meaning_alone_and_words_alone(figures: Any, measure: str) -> None:
    assert figures(measure, "ranker") > figures(measure, "meaning") + 0.03
    assert figures(measure, "ranker") > figures(measure, "words") + 0.03


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
