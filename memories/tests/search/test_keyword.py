"""Substring search finds every memory that holds the text, and no other, in any writing."""

import unicodedata
from dataclasses import replace

import pytest
from django.db import connection
from django.db.models import F

from core.errors import InvalidInputError, PermissionDeniedError
from core.principal import Scope
from memories.background import retention
from memories.browse import service as browse
from memories.browse.selection import Selection
from memories.editing import service as services
from memories.filters import parse_filters
from memories.models import Memory, ReviewStatus
from memories.search import substring as keyword
from memories.storage import substring_index as fulltext
from memories.tests import crowd
from memories.texts import fold

TEXTS = (
    *("tee", "TEE", "grüner", "GRÜNER TEE", "straße", "strasse", "STRASSE", "r T", "e d"),
    *(
        "北京",
        "京",
        "烤鸭",
        "京 北",
        "قهوة",
        "وة ا",
        "🚀",
        "👩‍💻",
        "💻",
        "σίσυφος",
        "σίσυφοσ",
        "naïve",
    ),
    *("50%", "%", "0% ", "under_score", "_", "r_s", "it's", "'", '"quoted"', '"', 'd" ', "\\"),
    *("fine", "back\\slash", "k\\s", "AND", "OR tee", "tee*", "NEAR(tee)", "-tee", "text_fold:tee"),
    *("t", "te", "absent", "teetee"),
)


def words(q: str, **fields) -> Selection:
    return Selection(q=q, mode="words", fields=fields)


@pytest.mark.parametrize("text", TEXTS)
def test_it_finds_what_a_plain_reading_finds(owner, project, text):
    rows = crowd.make(project, 250)
    wanted = fold(text.strip())
    expected = {r.id for r in rows if wanted in fold(r.text) and r.deleted_at is None}
    found = keyword.find(owner, text, limit=1000, statuses=ReviewStatus.values)
    assert {row.id for row in found} == expected
    assert set(Memory.objects.filter(keyword.condition(text), deleted_at=None).values_list(
        "id", flat=True)) == expected  # fmt: skip
    assert browse.read_page(owner, words(text)).total == len(expected)
    assert [(r.updated_at, r.id) for r in found] == sorted(
        ((r.updated_at, r.id) for r in found), reverse=True
    )


def test_letters_of_the_same_meaning_are_the_same(owner, project):
    crowd.make(project, 1, text=unicodedata.normalize("NFD", "café ＴＯＫＹＯ"), deleted_at=None)
    for text in ("CAFÉ", unicodedata.normalize("NFD", "café"), "tokyo", "ｔｏｋ"):
        assert browse.read_page(owner, words(text)).total == 1, text


def test_it_pages_and_obeys_filters_statuses_and_expiry(owner, project):
    rows = crowd.make(project, 200, text="grüner tee", deleted_at=None)
    first = keyword.find(owner, "tee", limit=30, statuses=ReviewStatus.values)
    second = keyword.find(owner, "tee", limit=30, offset=30, statuses=ReviewStatus.values)
    ids = [row.id for row in first + second]
    newest = sorted(rows, key=lambda row: (row.updated_at, row.id), reverse=True)
    assert ids == [row.id for row in newest[:60]]
    where = parse_filters({"user_id": "mara"})
    assert {r.user_id for r in keyword.find(owner, "tee", where=where, limit=200)} == {"mara"}
    shown = keyword.find(owner, "tee", limit=200)
    assert {r.review_status for r in shown} == {"unreviewed", "approved", "stale"}
    current = keyword.find(owner, "tee", limit=200, show_expired=False)
    assert 0 < len(current) < len(shown)


@pytest.mark.parametrize("text", ["", "  ", "\t\n", "a\0b"])
def test_what_cannot_be_looked_for_is_refused(owner, text):
    with pytest.raises(InvalidInputError):
        keyword.find(owner, text, limit=1)
    with pytest.raises(InvalidInputError):
        keyword.condition(text)


def test_only_who_may_read_searches(owner, project):
    with pytest.raises(PermissionDeniedError):
        keyword.find(replace(owner, scopes=frozenset({Scope.WRITE})), "tee", limit=1)


def test_foreign_memories_are_not_found(owner, other_project, project):
    crowd.make(other_project, 20, text="grüner tee")
    crowd.make(project, 5, seed=2, text="grüner tee", user_id="jonas", deleted_at=None)
    assert len(keyword.find(owner, "tee", limit=99, statuses=ReviewStatus.values)) == 5
    mara = replace(owner, entity_limit={"user_id": frozenset({"mara"})})
    assert keyword.find(mara, "tee", limit=99, statuses=ReviewStatus.values) == []


def test_the_index_follows_every_kind_of_change(owner, api, engine):
    id_ = api.add("the quetzal sings")
    assert browse.read_page(owner, words("quetzal")).total == 1
    services.update_memory(owner, id_, text="the toucan sings")
    assert browse.read_page(owner, words("quetzal")).total == 0
    assert browse.read_page(owner, words("toucan")).total == 1
    services.delete_memory(owner, id_)
    assert browse.read_page(owner, words("toucan")).total == 0
    assert browse.read_page(owner, words("toucan", deleted=("yes",))).total == 1
    services.restore_memories(owner, [Memory.objects.get().id])
    assert browse.read_page(owner, words("toucan")).total == 1
    services.erase_memories(owner, [Memory.objects.get().id])
    assert browse.read_page(owner, words("toucan", deleted=("yes",))).total == 0
    assert Memory.objects.filter(keyword.condition("toucan")).count() == 0


def test_what_is_purged_and_written_in_bulk_is_followed(owner, project):
    rows = crowd.make(project, 30, text="grüner tee", deleted_at=None)
    Memory.objects.filter(id__in=[r.id for r in rows[:10]]).update(
        text="kaffee", text_fold="kaffee", indexed_rev=F("rev")
    )
    assert browse.read_page(owner, words("grüner")).total == 20
    assert browse.read_page(owner, words("kaffee")).total == 10
    Memory.objects.filter(text="kaffee").update(deleted_at=rows[0].created_at)
    retention.purge_deleted(project, older_than=rows[0].created_at.replace(year=9999))
    assert Memory.objects.count() == 20
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO memories_words(memories_words, rank) VALUES ('integrity-check', 1)"
            )
            cursor.execute(
                "SELECT count(*) FROM memories_words WHERE memories_words MATCH 'kaffee'"
            )
            assert cursor.fetchone() == (0,)


def test_frequent_texts_are_read_another_way_with_the_same_result(owner, project, monkeypatch):
    rows = crowd.make(project, 300)
    expected = [r for r in rows if "tee" in r.text_fold and r.deleted_at is None]
    for few, many, counted in ((0, 1000, 1000), (0, 10, 1000), (0, 10, 20)):
        monkeypatch.setattr(keyword, "FEW", few)
        monkeypatch.setattr(keyword, "MANY", many)
        monkeypatch.setattr(keyword, "COUNTED", counted)
        page = browse.read_page(owner, words("tee"), per_page=10)
        at_least = len(expected) > counted
        assert (page.total, page.at_least) == (min(len(expected), counted), at_least)
        seen = []
        for number in range(1, page.pages + 1):
            seen += browse.read_page(owner, words("tee"), number=number, per_page=10).rows
        newest = sorted(expected, key=lambda r: (-r.created_at.timestamp(), -r.id.int))
        assert [r.id for r in seen] == [r.id for r in newest[: page.total]]
        if at_least or connection.vendor == "sqlite":
            assert browse.facets(owner, words("tee")) == {}


def test_short_texts_are_looked_for_among_the_newest_alone_and_it_is_said(
    owner, project, monkeypatch
):
    rows = [r for r in crowd.make(project, 200) if r.deleted_at is None]
    monkeypatch.setattr(keyword, "REACH", 50)
    newest = sorted(rows, key=lambda r: (r.created_at, r.id), reverse=True)[:50]
    page = browse.read_page(owner, words("te"))
    assert page.at_least
    assert {r.id for r in page.rows} == {r.id for r in newest if "te" in r.text_fold}
    # A bulk action and an export reach all the same.
    assert browse.filter_matching(owner, words("te")).count() == sum(
        "te" in r.text_fold for r in rows
    )


def test_without_an_index_it_goes_on(owner, project, monkeypatch):
    rows = [r for r in crowd.make(project, 100) if r.deleted_at is None]
    fulltext.remove()
    assert not fulltext.available()
    page = browse.read_page(owner, words("tee"))
    assert (page.total, page.at_least) == (sum("tee" in r.text_fold for r in rows), False)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":  # which makes no index of rows still to be checked
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert fulltext.install()
    assert fulltext.available()
    assert browse.read_page(owner, words("tee")).total == page.total


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL's index is part of the table")
def test_an_index_that_leads_astray_is_made_anew(owner, project):
    crowd.make(project, 30, text="grüner tee", deleted_at=None)
    with connection.cursor() as cursor:
        # As after a copy of the table: the rows have other numbers.
        cursor.execute("DROP TRIGGER memories_words_update")
        cursor.execute("INSERT INTO memories_words(memories_words) VALUES ('delete-all')")
    assert not fulltext.available()
    fulltext.repair()
    assert fulltext.available()
    assert browse.read_page(owner, words("grüner")).total == 30
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO memories_words(memories_words) VALUES ('delete-all')")
    assert browse.read_page(owner, words("grüner")).total == 0
    fulltext.repair()
    assert browse.read_page(owner, words("grüner")).total == 30
