"""The queries that run all the time are answered from an index, on both databases."""

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from memories import visibility
from memories.filters import parse_filters
from memories.models import ENTITY_FIELDS, Memory
from memories.search.candidates import CandidateReader


@pytest.fixture
def many(owner):
    """2,000 memories of 40 users, agents, apps and runs."""
    now = timezone.now()
    Memory.objects.bulk_create(
        Memory(
            project_id=owner.project.id,
            text="t",
            text_fold="t",
            fingerprint=str(n),
            session=str(n // 4),
            created_at=now + timedelta(seconds=n),
            updated_at=now,
            **dict.fromkeys(ENTITY_FIELDS, f"x{n % 40}"),
        )
        for n in range(2000)
    )
    if connection.vendor == "postgresql":  # which gathers statistics by itself; SQLite does not
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE memories_memory")
            cursor.execute("SET LOCAL enable_seqscan = off")


def test_the_outbox_is_read_from_its_partial_index(many):
    waiting = Memory.objects.filter(rev__gt=F("indexed_rev")).values_list("id", "rev")[:2000]
    assert "memory_pending" in waiting.explain()


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "memory_newest"),
        ({"user_id": "x7"}, "memory_user"),
        ({"agent_id": "x7"}, "memory_agent"),
        ({"app_id": "x7"}, "memory_app"),
        ({"run_id": "x7"}, "memory_run"),
    ],
)
def test_a_page_of_the_newest_is_read_from_an_index_without_sorting_all(
    owner, many, filters, index
):
    rows = visibility.filter_visible(owner, parse_filters(filters)).order_by("-created_at", "-id")
    plan = rows[:20].explain()
    assert index in plan
    assert "B-TREE FOR ORDER BY" not in plan
    assert "Sort" not in plan.replace("Incremental Sort", "").replace("Sort Key", "")


def test_candidates_and_the_turns_around_them_are_found_through_indexes(owner, many):
    reader = CandidateReader(visibility.filter_visible(owner, parse_filters({"user_id": "x7"})))
    wanted = list(Memory.objects.values_list("id", flat=True)[:20])
    for read in (reader.candidates, reader.lenders):
        with CaptureQueriesContext(connection) as captured:
            read(wanted)
        [asked] = captured.captured_queries
        word = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
        with connection.cursor() as cursor:
            cursor.execute(f"{word} {asked['sql']}".replace("%", "%%"), [])
            plan = str(cursor.fetchall())
        assert plan.count("memory_session") == 2, plan
        if connection.vendor == "sqlite":  # PostgreSQL may join few rows the other way round
            assert "autoindex_memories_memory_1" in plan, plan
        assert "SCAN memories_memory" not in plan


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has statistics to go by")
def test_named_memories_are_looked_up_by_their_ids_and_not_through_the_whole_project(owner, many):
    wanted = list(Memory.objects.values_list("id", flat=True)[:20])
    for rows in (
        visibility.filter_reachable(owner, by_id=True),
        visibility.filter_restorable(owner, by_id=True),
        Memory.objects.filter(visibility.in_project(owner.project.id)),
    ):
        assert "autoindex_memories_memory_1" in rows.filter(id__in=wanted).explain()


def test_named_memories_of_another_project_do_not_exist(owner, many, other_project):
    wanted = list(Memory.objects.values_list("id", flat=True)[:20])
    Memory.objects.filter(id__in=wanted[:5]).update(project=other_project)
    assert visibility.filter_reachable(owner, by_id=True).filter(id__in=wanted).count() == 15
