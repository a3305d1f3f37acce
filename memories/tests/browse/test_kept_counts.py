"""Counts that took long are kept, and never longer than they are true."""

from dataclasses import replace

import pytest
from django.http import QueryDict

from accounts.queries import project_view
from core.principal import Scope
from memories.browse import kept_counts
from memories.browse import service as browse
from memories.browse.selection import Selection


@pytest.fixture(autouse=True)
def everything_takes_long(monkeypatch):
    monkeypatch.setattr(kept_counts.counts, "long", -1.0)
    kept_counts.counts.clear()


calls: list[str] = []


def asked(principal, key="k"):
    """The how-manieth count it was that gave the answer."""

    def count():
        calls.append(key)
        return len(calls)

    return kept_counts.cached_count(principal, key, count)


@pytest.fixture(autouse=True)
def nothing_was_counted():
    calls.clear()


def test_the_same_question_is_counted_once(owner):
    assert [asked(owner), asked(owner), asked(owner, "other"), asked(owner)] == [1, 1, 2, 1]


def test_who_may_see_less_is_answered_apart(owner, other_project):
    asked(owner)
    others = (
        replace(owner, project=project_view(other_project)),
        replace(owner, entity_limit={"user_id": frozenset({"alice"})}),
        replace(owner, entity_limit={"user_id": frozenset({"bob"})}),
        replace(owner, scopes=frozenset({Scope.READ})),
        replace(owner, project=replace(owner.project, time_zone="Europe/Berlin")),
    )
    assert [asked(other) for other in others] == [2, 3, 4, 5, 6]
    assert [asked(other) for other in others] == [2, 3, 4, 5, 6]


def test_every_change_of_a_memory_ends_it(owner, api, engine):
    id_ = api.add("Mara drinks tea", user_id="mara")

    def users():
        listed = browse.facets(owner, Selection.of(QueryDict("")))["user_id"]
        return {facet.value: facet.count for facet in listed}

    assert users() == {"mara": 1}
    api.add("Jonas drinks coffee", user_id="jonas")
    assert users() == {"mara": 1, "jonas": 1}
    api.delete(f"/memories/{id_}")
    assert users() == {"jonas": 1}


def test_it_ends_with_time(owner, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("core.kept.time.monotonic", lambda: clock[0])
    assert [asked(owner), asked(owner)] == [1, 1]
    clock[0] += kept_counts.counts.least + 0.1
    assert asked(owner) == 2


def test_what_was_quick_and_what_is_old_takes_no_room(owner, monkeypatch):
    monkeypatch.setattr(kept_counts.counts, "size", 3)
    for n in range(10):
        asked(owner, n)
    assert len(kept_counts.counts) == 3
    monkeypatch.setattr(kept_counts.counts, "long", 60.0)
    asked(owner, "quick")
    assert len(kept_counts.counts) == 3
