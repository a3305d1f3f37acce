"""A day without a time is that day in the project's time zone, whoever asks for it and wherever."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Account, Project
from accounts.queries import project_view
from accounts.tests.signing import sign_in
from core.errors import ConflictError
from memories.browse import kept_counts
from memories.browse import service as browse
from memories.browse.selection import Selection
from memories.bulk import service as bulk
from memories.models import Memory, Revision
from memories.tests.pages import LIST, addresses, text_of, texts

BERLIN = "Europe/Berlin"
# In Berlin this day has 25 hours, from 22:00 of the day before to 23:00, both in UTC.
DAY = "2026-10-25"
MOMENTS = {
    "the evening before": datetime(2026, 10, 24, 21, 59, 59, 999999, tzinfo=UTC),
    "first": datetime(2026, 10, 24, 22, tzinfo=UTC),
    "last": datetime(2026, 10, 25, 22, 59, 59, 999999, tzinfo=UTC),
    "after": datetime(2026, 10, 25, 23, tzinfo=UTC),
}
IN_UTC = {"last", "after"}
IN_BERLIN = {"first", "last"}


def use(project: Project, zone: str) -> None:
    Project.objects.filter(id=project.id).update(time_zone=zone)


@pytest.fixture
def made(api: Any) -> Any:
    """The memories by their texts, each created, changed and expiring at its moment."""
    ids = {text: api.add(text, user_id="mara", infer=False) for text in MOMENTS}
    for text, at in MOMENTS.items():
        Memory.objects.filter(id=ids[text]).update(
            created_at=at, updated_at=at, expires_at=at, reviewed_at=at
        )
        Revision.objects.filter(memory_id=ids[text]).update(at=at)
    return ids


@pytest.mark.parametrize("field", ["created_at", "updated_at", "expires_at", "reviewed_at"])
def test_a_search_asks_for_days_in_the_zone_of_the_project(
    api: Any, made: Any, project: Project, field: str
) -> None:
    def found(asked: Any) -> set[str]:
        hits = api.search(
            "day", "mara", filters={field: asked}, threshold=0, top_k=9, show_expired=True
        )
        return {hit["memory"] for hit in hits}

    assert found(DAY) == IN_UTC
    use(project, BERLIN)
    assert found(DAY) == found({"gte": DAY, "lte": DAY}) == found([DAY]) == IN_BERLIN
    assert found({"lt": DAY}) == {"the evening before"}
    assert found({"gt": DAY}) == {"after"}
    assert found({"ne": DAY}) == {"the evening before", "after"}
    # What says a time says it in UTC, or with its own zone.
    assert found({"lte": f"{DAY}T00:00:00"}) == {"the evening before", "first"}
    assert found({"gte": f"{DAY}T00:00:00+02:00"}) == {"first", "last", "after"}
    use(project, "")
    assert found(DAY) == IN_UTC


def test_the_last_day_of_a_memory_stays_a_day_of_the_calendar(api: Any, project: Project) -> None:
    api.add("ends then", user_id="mara", infer=False, expiration_date="2030-10-25")
    use(project, "Pacific/Kiritimati")
    asked = {"expiration_date": "2030-10-25"}
    assert [hit["memory"] for hit in api.search("ends", "mara", filters=asked)] == ["ends then"]


def test_another_project_keeps_its_own_zone(
    api: Any, as_key: Any, key: Any, made: Any, project: Project, other_project: Project
) -> None:
    other = as_key(key(project=other_project))
    id_ = other.add("late", user_id="mara", infer=False)
    Memory.objects.filter(id=id_).update(created_at=MOMENTS["first"])
    use(project, BERLIN)
    asked = {"filters": {"created_at": DAY}, "threshold": 0, "show_expired": True}
    assert {hit["memory"] for hit in api.search("day", "mara", **asked)} == IN_BERLIN
    assert other.search("late", "mara", **asked) == []


def test_it_costs_no_statement(api: Any, made: Any, project: Project) -> None:
    def statements() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            api.search("day", "mara", filters={"created_at": DAY})
        return len(captured)

    statements()
    before = statements()
    use(project, BERLIN)
    assert statements() == before


def test_the_browser_lists_and_counts_days_of_the_zone(
    alice: Account, owner: Any, made: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where counting takes long, and what was counted is kept.
    monkeypatch.setattr(kept_counts.counts, "long", -1.0)
    kept_counts.counts.clear()
    signed_in = sign_in(alice)

    def listed(created: str) -> set[str]:
        return set(texts(signed_in.get(LIST, {"created": created})))

    def counted(created: str) -> int:
        page = signed_in.get(f"{LIST}/filters", {"created": created})
        assert page.status_code == 200
        who = replace(owner, project=project_view(Project.objects.get(id=project.id)))
        selection = Selection.of({"created": [created]})
        [mara] = browse.facets(who, selection, only=["user_id"])["user_id"]
        return mara.count

    assert listed(DAY) == IN_UTC and counted(f"..{DAY}") == 4
    use(project, BERLIN)
    assert listed(DAY) == listed(f"{DAY}..{DAY}") == IN_BERLIN
    assert listed(f"..{DAY}") == {"the evening before", *IN_BERLIN}
    assert listed(f"{DAY}..") == {*IN_BERLIN, "after"}
    # At once, though what was counted before is kept.
    assert counted(f"..{DAY}") == 3
    assert "Days in Europe/Berlin" in text_of(signed_in.get(f"{LIST}/filters"))


def test_a_saved_view_shows_the_days_of_the_zone_that_there_is_now(
    alice: Account, made: Any, project: Project
) -> None:
    signed_in = sign_in(alice)
    signed_in.post(f"{LIST}/views/save", {"name": "That day", "created": DAY})
    [way] = set(addresses(signed_in.get(f"{LIST}/views"), "created="))
    assert set(texts(signed_in.get(way))) == IN_UTC
    use(project, BERLIN)
    assert set(texts(signed_in.get(way))) == IN_BERLIN


def test_activity_asks_for_days_of_the_zone(alice: Account, made: Any, project: Project) -> None:
    signed_in: Client = sign_in(alice)
    use(project, BERLIN)
    asked = {"since": DAY, "until": DAY}
    page = text_of(signed_in.get("/dashboard/activity", asked))
    assert {text for text in MOMENTS if f">{text}<" in page} == IN_BERLIN
    assert "From (Europe/Berlin)" in page and "(UTC)" not in page
    lines = b"".join(signed_in.get("/dashboard/activity/export", asked | {"format": "jsonl"}))
    assert lines.count(b"\n") == len(IN_BERLIN)


def test_a_bulk_change_that_was_shown_for_another_zone_is_not_done(
    owner: Any, made: Any, project: Project
) -> None:
    selection = Selection.of({"created": [DAY]})
    shown = bulk.plan(owner, "approve", selection=selection)
    assert shown.count == 2
    there = replace(owner, project=replace(owner.project, time_zone=BERLIN))
    with pytest.raises(ConflictError):
        bulk.run(there, shown.token)
    assert not Memory.objects.filter(review_status="approved").exists()


@pytest.mark.parametrize("zone", ["UTC", BERLIN, "Nowhere/Atall"])
def test_a_zone_that_this_machine_has_forgotten_is_utc_and_no_error(
    api: Any, made: Any, project: Project, zone: str
) -> None:
    use(project, zone)
    asked = {"filters": {"created_at": DAY}, "threshold": 0, "show_expired": True}
    found = {hit["memory"] for hit in api.search("day", "mara", **asked)}
    assert found == (IN_BERLIN if zone == BERLIN else IN_UTC)


def test_the_environment_decides_where_a_project_has_no_zone(
    api: Any, made: Any, project: Project, settings: Any
) -> None:
    settings.DEFAULT_TIME_ZONE = BERLIN
    asked = {"filters": {"created_at": DAY}, "threshold": 0, "show_expired": True}
    assert {hit["memory"] for hit in api.search("day", "mara", **asked)} == IN_BERLIN
    use(project, "UTC")
    assert {hit["memory"] for hit in api.search("day", "mara", **asked)} == IN_UTC
