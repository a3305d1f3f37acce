"""The regression set for memory search (data/finding.json) is well formed."""

import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_form

PATH = Path(__file__).parent.parent / "data" / "finding.json"

MINIMUM = {
    "paraphrase": 10,
    "exact_name": 8,
    "date": 7,
    "follow_up": 8,
    "adversarial": 5,
    "unanswerable": 4,
    "standalone": 5,
}


@pytest.fixture(scope="module")
def data():
    return json.loads(PATH.read_text(encoding="utf-8"))


def turns_of(data, user):
    return [turn for session in data["users"][user] for turn in session["turns"]]


def all_turns(data):
    return [turn for user in data["users"] for turn in turns_of(data, user)]


def all_facts(data):
    return [fact for facts in data["facts"].values() for fact in facts]


def test_top_level_shape(data):
    assert set(data) == {"description", "users", "facts", "questions"}
    assert 2 <= len(data["users"]) <= 3
    assert set(data["facts"]) <= set(data["users"])


def test_size(data):
    assert sum(len(sessions) for sessions in data["users"].values()) >= 10
    assert len(all_turns(data)) >= 130
    assert len(all_facts(data)) >= 20
    assert len(data["questions"]) >= 45


def test_counts_of_kinds(data):
    counts = Counter(question["kind"] for question in data["questions"])
    assert set(counts) == set(MINIMUM)
    short = {kind: counts[kind] for kind, least in MINIMUM.items() if counts[kind] < least}
    assert not short


def test_ids_are_unique(data):
    ids = [item["id"] for item in all_turns(data) + all_facts(data) + data["questions"]]
    assert [key for key, count in Counter(ids).items() if count > 1] == []


def test_run_ids_are_unique_within_a_user(data):
    for sessions in data["users"].values():
        runs = [session["run_id"] for session in sessions]
        assert len(runs) == len(set(runs))


def test_turns(data):
    for turn in all_turns(data):
        assert set(turn) == {"id", "role", "name", "text"}, turn["id"]
        assert turn["role"] in ("user", "assistant"), turn["id"]
        assert turn["name"], turn["id"]
        assert turn["text"] == turn["text"].strip(), turn["id"]
        assert 40 <= len(turn["text"]) <= 350, turn["id"]
    for sessions in data["users"].values():
        for session in sessions:
            roles = [turn["role"] for turn in session["turns"]]
            assert all(a != b for a, b in pairwise(roles)), session["run_id"]


def test_texts_are_distinct(data):
    texts = [item["text"] for item in all_turns(data) + all_facts(data)]
    assert len(texts) == len(set(texts))
    queries = [(question["user"], question["query"]) for question in data["questions"]]
    assert len(queries) == len(set(queries))


def test_dates_are_iso_and_increase_within_a_user(data):
    for user, sessions in data["users"].items():
        dates = [datetime.fromisoformat(session["date"]) for session in sessions]
        assert all(date.tzinfo is not None for date in dates), user
        assert all(a < b for a, b in pairwise(dates)), user
        for session, date in zip(sessions, dates, strict=True):
            assert session["run_id"].startswith(date.date().isoformat()), session["run_id"]


def test_relevant_ids_belong_to_the_user(data):
    for question in data["questions"]:
        assert set(question) == {"id", "user", "kind", "query", "relevant", "note"}
        user, relevant = question["user"], question["relevant"]
        turns = {turn["id"] for turn in turns_of(data, user)}
        facts = {fact["id"] for fact in data["facts"].get(user, [])}
        assert question["query"].strip() and question["note"].strip(), question["id"]
        assert len(relevant) == len(set(relevant)), question["id"]
        assert set(relevant) <= turns | facts, question["id"]
        assert bool(relevant) == (question["kind"] != "unanswerable"), question["id"]
        if question["kind"] == "standalone":
            assert set(relevant) <= facts, question["id"]
        else:
            assert set(relevant) <= turns, question["id"]
