"""Counts per field against a plain count of the same memories."""

from collections import Counter
from datetime import timedelta

import pytest
from django.http import QueryDict
from django.utils import timezone

from memories.browse import service as browse
from memories.browse.facets import TOP
from memories.browse.selection import Selection
from memories.tests import crowd


def of(query: str) -> Selection:
    return Selection.of(QueryDict(query))


def counted(rows, selection: Selection, name: str) -> dict[str, int]:
    now = timezone.now()
    fitting = [row for row in rows if crowd.fits(row, selection, without=name)]
    if name == "expiry":
        return Counter(crowd.expiry(row, now) for row in fitting)
    return Counter(getattr(row, name) for row in fitting)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "user_id=mara",
        "agent_id=opencode&confidence=low&confidence=high",
        "source=&review_status=unreviewed&collection=knowledge",
        "run_id=run-3",
        "expiry=soon&expiry=never&user_id=jonas&user_id=",
        "app_id=shop&agent_id=claude&user_id=mara",
        "deleted=yes&confidence=low",
        "q=tee&mode=words&agent_id=opencode",
        "q=te&mode=words",
    ],
)
def test_every_field_is_counted_under_the_others_filters(owner, project, query):
    rows = crowd.make(project, 500)
    selection = of(query)
    found = browse.facets(owner, selection, only=browse.FACETS)
    assert set(found) == set(browse.FACETS)
    for name, listed in found.items():
        expected = counted(rows, selection, name)
        chosen = selection.fields.get(name, ())
        assert {f.value for f in listed if f.chosen} == set(chosen), name
        assert all(f.count == expected[f.value] for f in listed), name
        plain = [f for f in listed if f.count and not f.chosen]
        if name == "expiry":
            continue
        most = sorted(expected.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP]
        assert [(f.value, f.count) for f in listed[: len(most)]] == most, name
        assert len(plain) <= TOP


def test_runs_are_counted_where_somebody_is_named(owner, project):
    crowd.make(project, 50)
    assert "run_id" not in browse.facets(owner, of("confidence=low"))
    assert browse.facets(owner, of("user_id=mara"))["run_id"]


def test_expiry_has_all_four_in_one_order(owner, project):
    crowd.make(project, 5, expires_at=None, expiration_date=None, deleted_at=None)
    found = browse.facets(owner, of(""), only=("expiry",))["expiry"]
    assert [(f.value, f.count) for f in found] == [
        ("expired", 0), ("soon", 0), ("later", 0), ("never", 5),
    ]  # fmt: skip


def test_a_rare_value_that_is_asked_for_is_listed_after_the_most_frequent(owner, project):
    for n in range(30):
        crowd.make(project, 2, seed=n, user_id=f"user-{n:02d}", source=f"source-{n:02d}",
                   deleted_at=None)  # fmt: skip
    crowd.make(project, 1, seed=99, user_id="rare", source="rare", deleted_at=None)
    for name in ("user_id", "source"):
        found = browse.facets(owner, of(f"{name}=rare&{name}=absent"), only=(name,))[name]
        assert len(found) == TOP + 2
        assert {(f.value, f.count) for f in found[TOP:]} == {("rare", 1), ("absent", 0)}
        assert all(f.chosen for f in found[TOP:])


def test_a_search_by_meaning_leaves_nothing_out(owner, project):
    crowd.make(project, 10, deleted_at=None, confidence="low")
    [low] = browse.facets(owner, of("q=nothing+like+it"), only=("confidence",))["confidence"]
    assert (low.value, low.count, low.chosen) == ("low", 10, False)


LENGTHS = {"24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}


def in_time(row, selection: Selection) -> bool:
    now = timezone.now()
    dated = {"created": row.created_at, "updated": row.updated_at}
    rest = selection.minus("created").minus("updated")
    return crowd.fits(row, rest) and all(
        any(at >= now - LENGTHS[value] for value in selection.fields.get(name, ()))
        for name, at in dated.items()
        if selection.fields.get(name)
    )


def test_periods_are_counted_under_the_other_filters(owner, project):
    rows = crowd.make(project, 400)
    for query in ("", "user_id=mara", "confidence=low&created=7d", "q=te&mode=words"):
        selection = of(query)
        found = browse.more_facets(owner, selection)
        for name in ("created", "updated"):
            for facet in found[name]:
                asked = selection.minus(name).plus(name, facet.value)
                expected = sum(in_time(row, asked) for row in rows)
                assert facet.count == expected, (query, name, facet.value)
                assert facet.chosen == (facet.value in selection.fields.get(name, ()))


def test_metadata_keys_are_those_of_the_newest_with_the_commonest_first(owner, api, engine):
    api.add("one", metadata={"room": "hall", "weight": 2})
    api.add("two", metadata={"room": "attic"})
    api.add("three", user_id="somebody-else", metadata={"secret": 1})
    found = browse.more_facets(owner, of("user_id=alice&metadata=weight"))["metadata"]
    assert [(facet.value, facet.count) for facet in found] == [("room", 2), ("weight", 1)]
    assert browse.more_facets(owner, of("q=one&mode=words"))["metadata"] == []
