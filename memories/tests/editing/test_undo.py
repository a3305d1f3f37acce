"""Taking changes back: bulk ones by their operation, single ones by their entry in the history."""

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from django.utils import timezone

from core.errors import (
    ConflictError,
    EngineError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from core.principal import Scope
from memories import queries
from memories.background import retention
from memories.browse.selection import Selection
from memories.bulk import job as bulk_work
from memories.bulk import service as bulk
from memories.editing import service as services
from memories.models import Memory, MemoryVector, Revision
from memories.models.bulk import Operation, OperationItem
from memories.review import service as reviewing
from memories.search.service import search_memories
from memories.tests.actions import add, meant, said, settled

ALICE = Selection(fields={"user_id": ("alice",)})
# What an undo does not bring back: that it happened.
MOVED = {"rev", "indexed_rev", "updated_at"}


def row(id_) -> Memory:
    return Memory.objects.get(id=id_)


def content(id_) -> dict:
    return {k: v for k, v in Memory.objects.values().get(id=id_).items() if k not in MOVED}


def do(owner, action, value="", **what) -> Operation:
    return bulk.run(owner, bulk.plan(owner, action, value=value, **what).token)


def last(id_) -> Revision:
    return Revision.objects.filter(memory_id=id_).latest("id")


@pytest.fixture
def stranger(owner, other_project):
    from accounts.queries import project_view

    return replace(owner, project=project_view(other_project))


@pytest.fixture
def rich(owner, engine) -> list[uuid.UUID]:
    """Memories with something in every field that a bulk change touches."""
    one, two, three = add(owner, "green tea", "black tea", "white tea")
    told = {"review_status": "rejected", "reviewed_by": "Bob", "confidence": "low", "k": [1]}
    services.update_memory(owner, one, metadata={**told, "expires_at": "2030-01-01T10:00:00Z"})
    services.update_memory(owner, two, expiration_date=date(2031, 5, 6))
    return [one, two, three]


# --- Bulk ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("action", "value"),
    [
        *(("approve", ""), ("reject", ""), ("stale", ""), ("unreview", "")),
        *(("confidence", "high"), ("unexpire", ""), ("delete", "")),
        *(("expire", "2029-01-01"), ("expire", "2029-01-01T00:00:00Z")),
    ],
)
def test_undo_brings_every_field_back(owner, engine, embedder, rich, action, value):
    before = [content(id_) for id_ in rich]
    vectors = set(MemoryVector.objects.values_list("memory_id", "data"))
    embedder.batches.clear()
    done = do(owner, action, value, selection=ALICE)
    assert done.done > 0
    undone = bulk.undo(owner, done.id)
    assert (undone.state, undone.undone, undone.left) == ("undone", done.done, 0)
    assert [content(id_) for id_ in rich] == before
    assert set(MemoryVector.objects.values_list("memory_id", "data")) == vectors
    assert embedder.batches == []
    # Rejected ones are hidden from agents again, the others are found.
    assert set(said(engine.index, "tea")) == set(rich)
    assert {hit.memory.id for hit in search_memories(owner, "tea").hits} == set(rich[1:])
    assert set(meant(engine.index, embedder, "tea")) == set(rich)


def test_undo_of_restoring_deletes_again(owner, engine):
    [one] = add(owner, "green tea")
    services.delete_memory(owner, one)
    done = do(owner, "restore", ids=[one])
    begun = timezone.now()
    bulk.undo(owner, done.id)
    assert row(one).deleted_at >= begun
    assert said(engine.index, "tea") == set()


def test_undo_is_in_the_history_with_who_did_it(owner, engine, rich):
    done = do(owner, "confidence", "high", ids=rich)
    other = replace(owner, request_id="undo-1", client="browser", key_id=uuid.uuid4())
    bulk.undo(other, done.id)
    told = [last(id_) for id_ in rich]
    assert {r.request_id for r in told} == {"undo-1"}
    assert {(r.client, r.key_id, r.account_id) for r in told} == {
        ("browser", other.key_id, owner.account_id)
    }
    assert told[0].changes == {"confidence": ["high", "low"]}
    deleted = do(owner, "delete", ids=rich)
    bulk.undo(owner, deleted.id)
    assert (last(rich[0]).event, last(rich[0]).new_text) == ("RESTORE", "green tea")


def test_what_others_changed_since_is_left_and_told(owner, engine, rich):
    done = do(owner, "approve", selection=ALICE)
    services.update_memory(owner, rich[0], text="green tea with milk")
    services.delete_memory(owner, rich[1])
    undone = bulk.undo(owner, done.id)
    assert (undone.state, undone.undone, undone.left) == ("undone", 1, 2)
    assert row(rich[0]).review_status == "approved"
    assert row(rich[2]).review_status == "unreviewed"
    assert row(rich[1]).deleted_at is not None


def test_what_was_as_wanted_before_is_not_touched_by_undo(owner, engine, rich):
    services.update_memory(owner, rich[2], metadata={"review_status": "approved"})
    done = do(owner, "approve", selection=ALICE)
    assert done.unchanged == 1
    bulk.undo(owner, done.id)
    assert row(rich[2]).review_status == "approved"


def test_a_second_undo_changes_nothing(owner, engine, rich):
    done = do(owner, "approve", selection=ALICE)
    bulk.undo(owner, done.id)
    revs = list(Memory.objects.values_list("id", "rev"))
    again = bulk.undo(owner, done.id)
    assert (again.state, again.undone) == ("undone", 3)
    assert list(Memory.objects.values_list("id", "rev")) == revs


def test_changes_one_after_another_are_undone_backwards(owner, engine, rich):
    before = [content(id_) for id_ in rich]
    first, second = do(owner, "approve", ids=rich), do(owner, "reject", ids=rich)
    assert bulk.undo(owner, second.id).undone == 3
    assert {row(id_).review_status for id_ in rich} == {"approved"}
    assert bulk.undo(owner, first.id).undone == 3
    assert [content(id_) for id_ in rich] == before


def test_a_change_that_was_taken_back_by_hand_is_none(owner, engine, rich):
    done = do(owner, "approve", ids=rich)
    services.update_memory(owner, rich[0], text="green tea with milk")
    services.update_memory(owner, rich[1], text="black tea with milk")
    services.undo_change(owner, rich[0], last(rich[0]).id)
    undone = bulk.undo(owner, done.id)
    assert (undone.undone, undone.left) == (2, 1)
    assert row(rich[1]).review_status == "approved"


def test_undo_of_many_is_a_job_and_goes_on_after_a_kill(owner, engine, monkeypatch):
    monkeypatch.setattr(bulk, "AT_ONCE", 4)
    monkeypatch.setattr(bulk_work, "BATCH", 2)
    ids = add(owner, *(f"tea {n}" for n in range(9)))
    done = do(owner, "delete", selection=ALICE)
    bulk_work.work(engine.apply)
    begun = bulk.undo(owner, done.id)
    assert (begun.state, begun.undone) == ("undoing", 0)
    bulk_work.run_next_batch(done.id)  # and the index did not hear of it
    assert bulk.undo(owner, done.id).undone == 2
    with pytest.raises(ConflictError):
        bulk.cancel(owner, done.id)
    bulk_work.work(engine.apply)
    assert (bulk.get(owner, done.id).state, bulk.get(owner, done.id).undone) == ("undone", 9)
    assert set(Memory.objects.values_list("rev", "deleted_at")) == {(3, None)}
    assert Revision.objects.filter(event="RESTORE").count() == 9
    settled(engine)
    assert said(engine.index, "tea") == set(ids)


def test_a_running_job_is_not_undone(owner, engine, monkeypatch):
    monkeypatch.setattr(bulk, "AT_ONCE", 4)
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = do(owner, "delete", selection=ALICE)
    with pytest.raises(ConflictError, match="running"):
        bulk.undo(owner, begun.id)


def test_after_the_retention_nothing_is_undone_and_nothing_is_kept(owner, engine, rich):
    done = do(owner, "approve", selection=ALICE)
    Operation.objects.update(undo_until=timezone.now() - timedelta(seconds=1))
    with pytest.raises(ConflictError, match="no longer"):
        bulk.undo(owner, done.id)
    assert OperationItem.objects.count() == 3
    retention.purge_all()
    assert not OperationItem.objects.exists()
    kept = bulk.get(owner, done.id)
    assert (kept.action, kept.done, kept.account_id) == ("approve", 3, owner.account_id)
    assert (kept.words, kept.match) == ("", {})
    assert {row(id_).review_status for id_ in rich} == {"approved"}


def test_before_that_everything_is_kept(owner, engine, rich):
    done = do(owner, "approve", selection=ALICE)
    retention.purge_all()
    assert bulk.undo(owner, done.id).undone == 3


def test_what_was_purged_is_left(owner, engine, rich):
    done = do(owner, "delete", selection=ALICE)
    Memory.objects.filter(id=rich[0]).delete()
    undone = bulk.undo(owner, done.id)
    assert (undone.undone, undone.left) == (2, 1)


def test_what_was_erased_is_left_and_nothing_is_kept_of_it(owner, engine, rich):
    done = do(owner, "unreview", selection=ALICE)
    assert OperationItem.objects.get(memory_id=rich[0]).before["reviewed_by"] == "Bob"
    services.erase_memories(owner, [rich[0]])
    assert OperationItem.objects.get(memory_id=rich[0]).before == {}
    undone = bulk.undo(owner, done.id)
    assert undone.left == 1
    assert row(rich[0]).text == ""


# --- One: review, confidence, expiry -------------------------------------------------------------
def test_review_confidence_and_expiry_of_one(owner, engine):
    one, other = add(owner, "green tea", "black tea")
    assert reviewing.set_review(owner, one, "rejected").review_status == "rejected"
    assert row(one).reviewed_by == "Alice"
    assert [hit.memory.id for hit in search_memories(owner, "tea").hits] == [other]
    assert reviewing.set_confidence(owner, str(one), "high").confidence == "high"
    reviewing.set_expiry(owner, one, "2031-12-01")
    assert row(one).expiration_date == date(2031, 12, 1)
    reviewing.set_expiry(owner, one, "2031-12-01T00:00:00Z")
    assert (row(one).expiration_date, row(one).expires_at) == (
        None,
        datetime(2031, 12, 1, tzinfo=UTC),
    )
    reviewing.set_expiry(owner, one, "")
    assert (row(one).expiration_date, row(one).expires_at) == (None, None)
    changed = reviewing.set_review(owner, one, "unreviewed")
    assert (changed.reviewed_by, changed.reviewed_at, changed.rev) == ("", None, 7)
    reviewed = {"review_status", "reviewed_by", "reviewed_at"}
    assert [set(r.changes) for r in queries.history(owner, one)[1:]] == [
        *(reviewed, {"confidence"}, {"expiration_date"}),
        *({"expiration_date", "expires_at"}, {"expires_at"}, reviewed),
    ]
    assert row(other).rev == 1


def test_what_is_as_wanted_already_makes_no_entry(owner, engine):
    [one] = add(owner, "green tea")
    reviewing.set_review(owner, one, "approved")
    reviewing.set_review(owner, one, "approved")
    assert row(one).rev == 2
    assert len(queries.history(owner, one)) == 2


def test_one_that_changed_since_it_was_opened_is_refused(owner, engine):
    [one] = add(owner, "green tea")
    opened = row(one).rev
    services.update_memory(owner, one, text="black tea")
    for call, value in (
        (reviewing.set_review, "approved"),
        (reviewing.set_confidence, "high"),
        (reviewing.set_expiry, "2031-01-01"),
    ):
        with pytest.raises(ConflictError):
            call(owner, one, value, rev=opened)
        call(owner, one, value, rev=row(one).rev)


def test_bad_values_missing_rights_and_foreign_ids_are_refused(owner, engine, stranger):
    [one] = add(owner, "green tea")
    member = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE}))
    for call, good, bad in (
        (reviewing.set_review, "approved", "fine"),
        (reviewing.set_confidence, "high", "0.7"),
        (reviewing.set_expiry, "2031-01-01", "tomorrow"),
    ):
        with pytest.raises(InvalidInputError):
            call(owner, one, bad)
        with pytest.raises(PermissionDeniedError):
            call(member, one, good)
        for principal, id_ in ((stranger, one), (owner, uuid.uuid4()), (owner, "nonsense")):
            with pytest.raises(NotFoundError):
                call(principal, id_, good)
    assert row(one).rev == 1


# --- One: the last change ------------------------------------------------------------------------
def test_undoing_an_edit_brings_text_metadata_and_vector_back(owner, engine, embedder):
    [one] = add(owner, "green tea in spring", metadata={"k": 1, "source": "cli"})
    before = content(one)
    vector = bytes(MemoryVector.objects.get().data)
    services.update_memory(
        owner, one, text="a bicycle", metadata={"k": 2, "source": "app"},
        expiration_date=date(2031, 1, 1),
    )  # fmt: skip
    assert said(engine.index, "tea") == set()
    undone = services.undo_change(owner, one, last(one).id)
    assert undone.text == "green tea in spring"
    assert content(one) == before
    assert bytes(MemoryVector.objects.get().data) == vector
    assert said(engine.index, "tea") == {one}
    assert said(engine.index, "bicycle") == set()
    assert meant(engine.index, embedder, "tea in spring") == [one]
    entry = last(one)
    assert (entry.event, entry.old_text, entry.new_text) == (
        *("UPDATE", "a bicycle"),
        "green tea in spring",
    )
    assert entry.changes["metadata"] == [{"k": 2, "source": "app"}, {"k": 1, "source": "cli"}]


def test_an_undo_can_be_undone(owner, engine):
    [one] = add(owner, "green tea")
    services.update_memory(owner, one, text="black tea")
    services.undo_change(owner, one, last(one).id)
    assert services.undo_change(owner, one, last(one).id).text == "black tea"


def test_a_text_that_cannot_be_embedded_is_not_brought_back(owner, engine, embedder):
    [one] = add(owner, "green tea")
    services.update_memory(owner, one, text="black tea")
    entry, before = last(one), content(one)
    embedder.error = ConnectionError("away")
    with pytest.raises(EngineError):
        services.undo_change(owner, one, entry.id)
    assert content(one) == before
    assert last(one).id == entry.id


def test_undoing_what_does_not_touch_the_text_needs_no_embedder(owner, engine, embedder):
    [one] = add(owner, "green tea")
    reviewing.set_review(owner, one, "rejected")
    embedder.error = ConnectionError("away")
    assert services.undo_change(owner, one, last(one).id).review_status == "unreviewed"
    assert [hit.memory.id for hit in search_memories(owner, "tea").hits] == [one]


def test_undoing_a_deletion_and_an_addition(owner, engine, embedder):
    [one] = add(owner, "green tea")
    services.delete_memory(owner, one)
    services.undo_change(owner, one, last(one).id)
    assert row(one).deleted_at is None
    assert said(engine.index, "tea") == {one}
    [two] = add(owner, "black tea")
    services.undo_change(owner, two, last(two).id)
    assert row(two).deleted_at is not None
    assert said(engine.index, "tea") == {one}
    assert [r.event for r in queries.history(owner, two)] == ["ADD", "DELETE"]


def test_only_the_last_change_is_undone(owner, engine):
    [one] = add(owner, "green tea")
    services.update_memory(owner, one, text="black tea")
    first = last(one)
    services.update_memory(owner, one, text="white tea")
    with pytest.raises(ConflictError, match="changed since"):
        services.undo_change(owner, one, first.id)
    assert row(one).text == "white tea"


def test_erasing_is_not_undone(owner, engine):
    [one] = add(owner, "green tea")
    services.erase_memories(owner, [one])
    with pytest.raises(ConflictError, match="erased"):
        services.undo_change(owner, one, last(one).id)


def test_who_may_undo_a_single_change(owner, engine, stranger, bob):
    one, two = add(owner, "green tea", "black tea")
    services.update_memory(owner, one, text="white tea")
    member = replace(owner, account_id=bob.id, scopes=frozenset({Scope.READ, Scope.WRITE}))
    # Others' changes are for who may review.
    with pytest.raises(PermissionDeniedError):
        services.undo_change(member, one, last(one).id)
    services.update_memory(member, one, text="oolong")
    assert services.undo_change(member, one, last(one).id).text == "white tea"
    services.delete_memory(member, two)
    services.undo_change(member, two, last(two).id)
    assert row(two).deleted_at is None
    reviewing.set_review(replace(owner, account_id=bob.id), two, "rejected")
    with pytest.raises(PermissionDeniedError):
        services.undo_change(member, two, last(two).id)
    reader = replace(member, scopes=frozenset({Scope.READ}))
    with pytest.raises(PermissionDeniedError):
        services.undo_change(reader, one, last(one).id)


def test_foreign_and_missing_changes_do_not_exist(owner, engine, stranger):
    one, two = add(owner, "green tea", "black tea")
    limited = replace(owner, entity_limit={"user_id": frozenset({"mara"})})
    for principal, id_, revision in (
        (stranger, one, last(one).id),
        (limited, one, last(one).id),
        (owner, two, last(one).id),
        (owner, one, 10**9),
        (owner, uuid.uuid4(), last(one).id),
        (owner, "nonsense", last(one).id),
    ):
        with pytest.raises(NotFoundError):
            services.undo_change(principal, id_, revision)
    assert Memory.objects.filter(deleted_at=None).count() == 2
