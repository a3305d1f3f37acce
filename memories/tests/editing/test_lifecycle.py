"""Deleting, restoring, purging and expiring: what is gone is gone everywhere, and who did it
stays."""

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from core.errors import ConflictError, InvalidInputError, NotFoundError, PermissionDeniedError
from core.principal import Principal, Scope
from memories import queries
from memories.background import retention
from memories.editing import service as services
from memories.filters import EVERYTHING, parse_filters
from memories.models import Memory, MemoryVector, Revision
from memories.search.service import search_memories
from memories.tests.actions import add, meant, pending, said, settled
from memories.texts import parse_instant


@pytest.fixture
def stranger(other_project) -> Principal:
    """The owner of everything in another project."""
    from accounts.queries import project_view

    return Principal(
        project=project_view(other_project), scopes=frozenset(Scope), via="api_key", is_owner=True
    )


def found(principal, query="tea", **options) -> list[uuid.UUID]:
    return [hit.memory.id for hit in search_memories(principal, query, **options).hits]


def listed(principal, **options) -> list[uuid.UUID]:
    rows = queries.list_memories(principal, where=EVERYTHING, limit=1000, **options)
    return [row.id for row in rows]


def events(principal, memory_id) -> list[str]:
    return [revision.event for revision in queries.history(principal, memory_id)]


# --- Deleting ------------------------------------------------------------------------------------
def test_a_deleted_memory_is_hidden_everywhere_at_once_and_its_history_stays(owner, engine):
    gone, kept = add(owner, "green tea", "black tea")
    services.delete_memory(owner, gone)
    assert found(owner) == [kept]
    assert listed(owner) == [kept]
    assert [row.id for row in queries.list_all(owner, limit=10)] == [kept]
    assert [entity["total_memories"] for entity in queries.list_entities(owner)] == [1]
    assert said(engine.index, "tea") == {kept}
    for call in (
        lambda: queries.get_memory(owner, gone),
        lambda: services.delete_memory(owner, gone),
        lambda: services.update_memory(owner, gone, text="new"),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert events(owner, gone) == ["ADD", "DELETE"]
    assert queries.history(owner, gone)[1].old_text == "green tea"


def test_an_entity_is_gone_with_its_last_memory(owner, engine):
    [one] = add(owner, "green tea")
    services.delete_memory(owner, one)
    assert queries.list_entities(owner) == []


def test_deleting_what_matches_goes_through_batches_and_spares_the_rest(owner, engine):
    many = add(owner, *(f"tea number {n}" for n in range(1203)), user_id="bulk")
    [kept] = add(owner, "green tea")
    where = parse_filters({"user_id": "bulk"})
    assert services.delete_matching(owner, where) == 1203
    assert listed(owner) == [kept]
    assert engine.index.count() == 1
    assert Revision.objects.filter(event="DELETE", memory_id__in=many).count() == 1203
    assert services.delete_matching(owner, where) == 0


def test_deleting_what_matches_reaches_what_no_list_shows(owner, engine):
    add(owner, "rejected tea", metadata={"review_status": "rejected"})
    add(owner, "expired tea", expiration_date=date(2020, 1, 1))
    assert listed(owner) == []
    assert services.delete_matching(owner, EVERYTHING) == 2
    assert engine.index.count() == 0


def test_deleting_what_matches_spares_what_stopped_matching(owner, engine, monkeypatch):
    [one] = add(owner, "green tea", metadata={"keep": False})
    portions = services.portions

    def change_meanwhile(rows, size):
        for batch in portions(rows, size):
            monkeypatch.undo()
            services.update_memory(owner, one, metadata={"keep": True})
            yield batch

    monkeypatch.setattr(services, "portions", change_meanwhile)
    services.delete_matching(owner, parse_filters({"keep": False}))
    assert listed(owner) == [one]


# --- Restoring -----------------------------------------------------------------------------------
def test_restoring_brings_everything_back_as_it_was(owner, engine, embedder):
    [one] = add(owner, "green tea", metadata={"k": [1, {"a": None}], "source": "cli"})
    before = Memory.objects.values().get(id=one)
    vector = bytes(MemoryVector.objects.get().data)
    services.delete_memory(owner, one)
    settled(engine)
    embedder.batches.clear()
    assert services.restore_memories(owner, [one]) == [one]
    after = Memory.objects.values().get(id=one)
    moved = {"rev", "indexed_rev", "updated_at"}
    assert {k: v for k, v in after.items() if k not in moved} == {
        k: v for k, v in before.items() if k not in moved
    }
    assert after["rev"] == before["rev"] + 2
    assert bytes(MemoryVector.objects.get().data) == vector
    assert embedder.batches == []
    assert found(owner) == listed(owner) == meant(engine.index, embedder, "tea") == [one]
    assert events(owner, one) == ["ADD", "DELETE", "RESTORE"]
    assert queries.history(owner, one)[2].new_text == "green tea"


def test_restoring_what_was_purged_restores_nothing(owner, engine):
    one, two = add(owner, "green tea", "black tea")
    for id_ in (one, two):
        services.delete_memory(owner, id_)
    Memory.objects.filter(id=two).delete()
    for ids in ([one, two], [one, uuid.uuid4()], [uuid.uuid4()]):
        with pytest.raises(ConflictError):
            services.restore_memories(owner, ids)
        assert listed(owner) == []
        assert events(owner, one) == ["ADD", "DELETE"]


def test_restoring_what_was_erased_or_never_deleted_is_refused(owner, engine):
    erased, live = add(owner, "green tea", "black tea")
    services.erase_memories(owner, [erased])
    for id_ in (erased, live):
        with pytest.raises(ConflictError):
            services.restore_memories(owner, [id_])
    assert listed(owner) == [live]


# --- Purging -------------------------------------------------------------------------------------
@pytest.fixture
def deleted(owner, engine):
    """`deleted(days)`: a memory that was deleted so many days ago, which the index has let go."""

    def deleted(days: float) -> uuid.UUID:
        [one] = add(owner, "green tea")
        services.delete_memory(owner, one)
        Memory.objects.filter(id=one).update(deleted_at=timezone.now() - timedelta(days=days))
        settled(engine)
        return one

    return deleted


def test_a_purge_waits_for_the_retention_time_of_the_project(owner, project, deleted):
    old, new = deleted(6), deleted(4)
    assert retention.purge_all() == 0
    project.retention_days = 5
    project.save()
    assert retention.purge_all() == 1
    assert list(Memory.objects.values_list("id", flat=True)) == [new]
    assert MemoryVector.objects.count() == 1
    assert events(owner, old) == ["ADD", "DELETE"]
    assert {r.old_text or r.new_text for r in queries.history(owner, old)} == {None}


def test_each_project_is_purged_by_its_own_retention_time(owner, other_project, deleted):
    one = deleted(6)
    other_project.retention_days = 1
    other_project.save()
    assert retention.purge_all() == 0
    Memory.objects.filter(id=one).update(project=other_project)
    assert retention.purge_all() == 1


def test_a_purge_waits_until_the_index_has_let_go(owner, engine, project, deleted, monkeypatch):
    gone = deleted(31)
    monkeypatch.setattr(engine, "apply", lambda memories: None)
    [held] = add(owner, "black tea")
    services.delete_memory(owner, held)
    long_ago = timezone.now() - timedelta(days=31)
    Memory.objects.filter(id=held).update(deleted_at=long_ago)
    assert retention.purge_all() == 1
    assert list(Memory.objects.values_list("id", flat=True)) == [held]
    settled(engine)
    assert retention.purge_all() == 1
    assert not Memory.objects.filter(id__in=[gone, held]).exists()


def test_a_live_memory_is_never_purged_however_old(owner, engine):
    [one] = add(owner, "green tea", metadata={"created_at": "2001-01-01T00:00:00Z"})
    settled(engine)
    assert retention.purge_all() == 0
    assert listed(owner) == [one]


def test_what_is_restored_while_the_purge_runs_stays(owner, deleted):
    one = deleted(31)
    restored = []

    def restore_meanwhile(execute, sql, params, many, context):
        answer = execute(sql, params, many, context)
        if not restored and sql.startswith("SELECT") and "deleted_at" in sql:
            restored.append(one)  # the purge has chosen what to remove
            services.restore_memories(owner, [one])
        return answer

    with connection.execute_wrapper(restore_meanwhile):
        retention.purge_all()
    assert restored
    assert queries.get_memory(owner, one).text == "green tea"


def test_a_purge_works_through_more_than_one_batch(owner, engine, project):
    ids = add(owner, *(f"tea number {n}" for n in range(1100)))
    services.delete_matching(owner, EVERYTHING)
    Memory.objects.update(deleted_at=timezone.now() - timedelta(days=31))
    settled(engine)
    assert retention.purge_all() == len(ids)
    assert not Memory.objects.exists()
    assert pending() == 0


# --- Expiring ------------------------------------------------------------------------------------
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "now", "shown"),
    [
        ({"expires_at": NOON}, NOON - timedelta(microseconds=1), True),
        ({"expires_at": NOON}, NOON, False),
        ({"expires_at": NOON}, NOON + timedelta(days=1), False),
        ({"expiration_date": date(2024, 3, 5)}, NOON, True),
        ({"expiration_date": date(2024, 3, 5)}, datetime(2024, 3, 5, 23, 59, 59, 999_999), True),
        ({"expiration_date": date(2024, 3, 5)}, datetime(2024, 3, 6), False),
        ({"expiration_date": date(2024, 3, 4)}, NOON, False),
        ({"expiration_date": date(2024, 3, 9), "expires_at": NOON}, NOON, False),
        ({"expiration_date": date(2024, 3, 4), "expires_at": NOON}, NOON - timedelta(1), True),
        ({}, datetime(2999, 1, 1), True),
    ],
    ids=repr,
)
def test_a_memory_expires_at_its_instant_or_with_its_day_in_utc(
    owner, engine, monkeypatch, fields, now, shown
):
    [one] = add(owner, "green tea")
    Memory.objects.filter(id=one).update(**fields)
    engine.indexer.apply([one])
    monkeypatch.setattr(timezone, "now", lambda: now.replace(tzinfo=UTC))
    expected = [one] if shown else []
    assert listed(owner) == expected
    assert found(owner) == expected
    assert listed(owner, show_expired=True) == [one]
    assert found(owner, show_expired=True) == [one]
    assert queries.get_memory(owner, one).id == one


def test_an_instant_of_expiry_comes_from_the_metadata(owner, engine):
    [past] = add(owner, "green tea", metadata={"expires_at": "2020-01-01T00:00:00+01:00"})
    [future] = add(owner, "black tea", metadata={"expires_at": "2999-01-01"})
    assert Memory.objects.get(id=past).expires_at == datetime(2019, 12, 31, 23, tzinfo=UTC)
    assert found(owner) == listed(owner) == [future]


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
@pytest.mark.parametrize("name", ["expires_at", "created_at"])
def test_an_instant_outside_of_the_calendar_is_refused(owner, engine, name, moment):
    assert parse_instant(moment) is None
    with pytest.raises(InvalidInputError, match=f"metadata {name}: use ISO 8601"):
        add(owner, "green tea", metadata={name: moment})
    assert not Memory.objects.exists()


# --- Who did it ----------------------------------------------------------------------------------
def test_every_write_says_who_did_it_with_what_and_in_which_request(owner, engine):
    key_id = uuid.uuid4()
    caller = replace(
        owner, key_id=key_id, key_prefix="m0sk_abcdefg", client="tests/1", request_id="r-17"
    )
    [one] = add(caller, "green tea")
    services.update_memory(caller, one, text="black tea", metadata={"k": 1})
    services.delete_memory(caller, one)
    services.restore_memories(caller, [one])
    services.delete_matching(caller, EVERYTHING)
    services.erase_memories(caller, [one])
    history = queries.history(owner, one)
    assert [r.event for r in history] == ["ADD", "UPDATE", "DELETE", "RESTORE", "DELETE", "ERASE"]
    for revision in history:
        assert revision.account_id == owner.account_id
        assert (revision.key_id, revision.key_prefix) == (key_id, "m0sk_abcdefg")
        assert (revision.client, revision.request_id) == ("tests/1", "r-17")
        assert (revision.via, revision.project_id) == ("api_key", owner.project.id)
        assert revision.memory_created_at == Memory.objects.get(id=one).created_at
    assert [r.at for r in history] == sorted(r.at for r in history)


def test_a_revision_tells_what_changed(owner, engine):
    [one] = add(owner, "green tea", metadata={"k": 1})
    services.update_memory(
        owner, one, text="black tea", metadata={"k": 2}, expiration_date=date(2999, 1, 1)
    )
    [_, change] = queries.history(owner, one)
    assert (change.old_text, change.new_text) == ("green tea", "black tea")
    assert change.changes == {
        "metadata": [{"k": 1}, {"k": 2}],
        "expiration_date": [None, "2999-01-01"],
    }


# --- Other people's memories ---------------------------------------------------------------------
def test_a_memory_of_another_project_does_not_exist(owner, engine, stranger):
    [one] = add(owner, "green tea")
    for call in (
        lambda: queries.get_memory(stranger, one),
        lambda: queries.find(stranger, str(one)),
        lambda: services.update_memory(stranger, one, text="mine"),
        lambda: services.update_memory(stranger, one, metadata={"k": 1}),
        lambda: services.delete_memory(stranger, one),
    ):
        with pytest.raises(NotFoundError, match=str(one)):
            call()
    assert queries.history(stranger, one) == []
    assert queries.list_entities(stranger) == []
    assert listed(stranger) == queries.list_all(stranger, limit=9) == found(stranger) == []
    assert services.delete_matching(stranger, EVERYTHING) == 0
    assert services.erase_memories(stranger, [one]) == 0
    assert queries.ids_of_entities(stranger, {"user_id": "alice"}) == []
    services.delete_memory(owner, one)
    with pytest.raises(ConflictError):
        services.restore_memories(stranger, [one])
    assert queries.ids_deleted_since(stranger, timezone.now() - timedelta(days=1)) == []
    assert services.restore_memories(owner, [one]) == [one]
    assert events(owner, one) == ["ADD", "DELETE", "RESTORE"]


def test_what_is_outside_of_the_entity_limit_does_not_exist(owner, engine):
    [one] = add(owner, "green tea")
    limited = replace(owner, entity_limit={"user_id": frozenset({"bob"})})
    for call in (
        lambda: queries.get_memory(limited, one),
        lambda: services.update_memory(limited, one, text="mine"),
        lambda: services.delete_memory(limited, one),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert queries.history(limited, one) == []
    assert listed(limited) == found(limited) == queries.list_entities(limited) == []
    assert services.delete_matching(limited, EVERYTHING) == 0
    assert services.erase_memories(limited, [one]) == 0
    with pytest.raises(PermissionDeniedError):
        add(limited, "green tea")


@pytest.mark.parametrize("odd", ["", "x", "1", "00000000-0000-0000-0000", "🍵" * 36])
def test_text_that_is_no_id_names_nothing(owner, engine, odd):
    with pytest.raises(NotFoundError):
        queries.get_memory(owner, odd)
    with pytest.raises(NotFoundError):
        services.delete_memory(owner, odd)
    assert queries.history(owner, odd) == []
