"""What an address says is read, written again, and told in words."""

from datetime import UTC, timedelta

import pytest
from django.http import QueryDict
from django.utils import timezone

from core.errors import InvalidInputError
from memories.browse.selection import Selection
from memories.filters import to_q
from memories.models import Memory
from memories.tests import crowd


def of(query: str) -> Selection:
    return Selection.of(QueryDict(query))


def test_an_address_is_read_and_written_in_one_order():
    seen = of("user_id=mara&confidence=low&user_id=jonas&user_id=mara&q=+tea+&mode=words")
    assert seen.fields == {"user_id": ("jonas", "mara"), "confidence": ("low",)}
    assert (seen.q, seen.mode, seen.sort) == ("tea", "words", "newest")
    again = of("mode=words&q=tea&confidence=low&user_id=jonas&user_id=mara")
    assert seen.query_string() == again.query_string()
    assert of(seen.query_string()) == seen
    assert Selection.of(seen.to_storage()) == seen


def test_an_empty_address_is_everything_and_has_no_parameters():
    assert of("").is_everything
    assert of("").params() == []
    assert of("").words() == "all memories"
    assert of("mode=words&sort=newest").query_string() == ""


def test_a_change_replaces_removes_and_adds():
    seen = of("user_id=mara&q=tea&sort=oldest")
    assert seen.query_string(user_id=("a", "b"), page=2) == (
        "q=tea&sort=oldest&user_id=a&user_id=b&page=2"
    )
    assert seen.query_string(q=None, sort=None) == "user_id=mara"


def test_a_value_is_added_and_taken_away():
    seen = of("user_id=mara").plus("user_id", "jonas").plus("source", "")
    assert seen.fields == {"user_id": ("jonas", "mara"), "source": ("",)}
    assert seen.minus("user_id", "mara").fields["user_id"] == ("jonas",)
    assert seen.minus("user_id").fields == {"source": ("",)}
    assert "source" not in seen.minus("source", "").fields


def test_only_a_search_by_meaning_is_sorted_by_the_best():
    assert of("q=tea").sort == "best"
    assert of("q=tea&mode=words&sort=best").sort == "newest"
    assert of("sort=best").sort == "newest"
    assert of("q=tea&sort=oldest").query_string() == "q=tea&sort=oldest"


@pytest.mark.parametrize(
    "query",
    [
        "review_status=perhaps",
        "confidence=0.7",
        "collection=",
        "expiry=tomorrow",
        "deleted=no",
        "mode=magic",
        "sort=random",
        "created=",
        "created=soon",
        "created=2026-13-01",
        "created=2026-11-20..2026-11-01",
        "created=..",
        "updated=0d",
        "metadata=%3Dtea",
        "metadata=",
        "q=a%00b",
        "user_id=a%00b",
        f"q={'x' * 1001}",
        f"user_id={'x' * 301}",
        "&".join(f"user_id=u{n}" for n in range(101)),
    ],
)
def test_values_that_a_name_cannot_have_are_refused_with_a_sentence(query):
    with pytest.raises(InvalidInputError) as refused:
        of(query)
    assert refused.value.message.endswith(".")


@pytest.mark.parametrize("params", [{"user_id": 5}, {"user_id": [5]}, {"q": {"a": 1}}])
def test_what_was_stored_by_another_hand_is_refused(params):
    with pytest.raises(InvalidInputError):
        Selection.of(params)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("user_id=mara&user_id=jonas&review_status=unreviewed&q=django&mode=words",
         "user jonas or mara, unreviewed, with “django”"),
        ("q=tea", "about “tea”"),
        ("agent_id=", "no agent"),
        ("agent_id=&agent_id=opencode", "agent opencode or no agent"),
        ("confidence=low&confidence=medium", "low or medium confidence"),
        ("expiry=soon", "expiring within 7 days"),
        ("created=24h", "created in the last 24 hours"),
        ("created=1d", "created in the last day"),
        ("updated=2026-11-01..", "updated since 2026-11-01"),
        ("created=..2026-11-20", "created up to 2026-11-20"),
        ("created=2026-11-01..2026-11-20", "created from 2026-11-01 to 2026-11-20"),
        ("created=2026-11-20", "created on 2026-11-20"),
        ("metadata=topic%3Dtea", "metadata topic=tea"),
        ("deleted=yes", "deleted"),
    ],
)  # fmt: skip
def test_it_is_told_in_words(query, words):
    assert of(query).words() == words


def test_periods_take_in_their_first_and_last_day(project):
    day = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=5)
    moments = [-1, 0, 86_399_999_999, 86_400_000_000]
    rows = [
        crowd.make(
            project, 1, seed=n, created_at=day + timedelta(microseconds=moment), deleted_at=None
        )[0]
        for n, moment in enumerate(moments)
    ]
    date = day.date().isoformat()

    def found(value: str) -> set[int]:
        wanted = Memory.objects.filter(to_q(of(f"created={value}").where(), UTC))
        return {rows.index(row) for row in wanted}

    assert found(date) == found(f"{date}..{date}") == {1, 2}
    assert found(f"{date}..") == {1, 2, 3}
    assert found(f"..{date}") == {0, 1, 2}
    assert found("4d") == set()
    assert found("7d") == {0, 1, 2, 3}
    assert found(f"4d&created={date}") == {1, 2}


def test_metadata_keys_all_hold_and_values_of_one_key_are_alternatives(project):
    values = [{"topic": "tea"}, {"topic": "code", "n": 5}, {"n": "5"}, {"done": True}, {}]
    for n, metadata in enumerate(values):
        crowd.make(project, 1, seed=n, metadata=metadata)

    def found(query: str) -> int:
        return Memory.objects.filter(to_q(of(query).where(), UTC)).count()

    assert found("metadata=topic") == 2
    assert found("metadata=topic%3Dtea&metadata=topic%3Dcode") == 2
    assert found("metadata=topic%3Dcode&metadata=n%3D5") == 1
    assert found("metadata=n%3D5") == 2
    assert found("metadata=done%3Dtrue") == 1
    assert found("metadata=topic%3D%25") == 0
