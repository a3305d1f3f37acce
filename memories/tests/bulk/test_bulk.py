"""Bulk changes: what was shown is what is done, or nothing is; nobody reaches beyond their own."""

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from django.core import signing
from django.utils import timezone

from core.errors import ConflictError, InvalidInputError, NotFoundError, PermissionDeniedError
from core.principal import Principal, Scope
from memories import queries, visibility
from memories.browse.selection import Selection
from memories.bulk import job as bulk_work
from memories.bulk import plan as bulk_match
from memories.bulk import service as bulk
from memories.editing import service as services
from memories.models import Memory, MemoryVector, Revision
from memories.models.bulk import Operation, OperationItem
from memories.search.service import search_memories
from memories.tests.actions import add, said, settled

REVIEW = ("approve", "reject", "stale", "unreview", "unexpire", "delete", "restore")
EVERYTHING = Selection()
UNREVIEWED = Selection(fields={"review_status": ("unreviewed",)})


def of(user: str, **fields) -> Selection:
    return Selection(fields={"user_id": (user,), **fields})


def do(principal, action, *, value="", **what) -> Operation:
    shown = bulk.plan(principal, action, value=value, **what)
    done = bulk.run(principal, shown.token)
    assert (done.count, done.done, done.unchanged) == (shown.count, shown.changing, shown.unchanged)
    return done


def row(id_) -> Memory:
    return Memory.objects.get(id=id_)


def snapshot() -> tuple:
    """All that a refused call must leave as it is."""
    return (
        list(Memory.objects.order_by("id").values()),
        Revision.objects.count(),
        OperationItem.objects.count(),
        Operation.objects.count(),
    )


@pytest.fixture
def stranger(other_project) -> Principal:
    from accounts.queries import project_view

    return Principal(
        project=project_view(other_project),
        scopes=frozenset(Scope),
        via="api_key",
        is_owner=True,
        request_id="strange",
    )


# --- The dry run ---------------------------------------------------------------------------------
def test_a_plan_shows_what_would_change_and_changes_nothing(owner, engine):
    ids = add(owner, *(f"tea number {n}" for n in range(13)))
    services.update_memory(owner, ids[0], metadata={"review_status": "approved"})
    before = snapshot()
    shown = bulk.plan(owner, "approve", selection=of("alice"))
    assert (shown.count, shown.unchanged, shown.changing) == (13, 1, 12)
    assert len(shown.sample) == 10
    assert {(one.before, one.after) for one in shown.sample} == {("unreviewed", "approved")}
    # The newest first, and none that stays as it is.
    assert [one.id for one in shown.sample] == ids[:2:-1]
    assert shown.sample[0].text == "tea number 12"
    assert shown.words == "user alice"
    assert (shown.can_be_undone, shown.undo_days) == (True, 30)
    assert snapshot() == before


@pytest.mark.parametrize(
    ("action", "value", "before", "after"),
    [
        ("reject", "", "unreviewed", "rejected"),
        ("confidence", "high", "unknown", "high"),
        ("expire", "2031-12-01", "never expires", "expires after 2031-12-01"),
        ("expire", "2031-12-01T08:30:00Z", "never expires", "expires 2031-12-01 08:30 UTC"),
        ("delete", "", "live", "deleted"),
        ("erase", "", "live", "erased"),
    ],
)
def test_the_sample_says_before_and_after(owner, engine, action, value, before, after):
    [one] = add(owner, "green tea")
    [shown] = bulk.plan(owner, action, ids=[one], value=value).sample
    assert (shown.id, shown.text, shown.before, shown.after) == (one, "green tea", before, after)


@pytest.mark.parametrize(
    ("action", "value"),
    [
        *(("", ""), ("drop", ""), ("Approve", ""), ("approve", "yes"), ("delete", "all")),
        *(("confidence", ""), ("confidence", "0.7"), ("expire", ""), ("expire", "soon")),
        *(("expire", "2026-02-30"), ("expire", "99999-01-01"), ("unexpire", "2026-01-01")),
    ],
)
def test_an_action_or_value_that_makes_no_sense_is_refused(owner, engine, action, value):
    [one] = add(owner, "green tea")
    with pytest.raises(InvalidInputError):
        bulk.plan(owner, action, ids=[one], value=value)


def test_what_it_is_about_is_named_in_one_way(owner, engine):
    [one] = add(owner, "green tea")
    for what in ({}, {"ids": []}, {"ids": [one], "selection": EVERYTHING}):
        with pytest.raises(InvalidInputError):
            bulk.plan(owner, "approve", **what)
    too_many = [uuid.uuid4() for _ in range(bulk.MAX_IDS + 1)]
    with pytest.raises(InvalidInputError, match="At most"):
        bulk.plan(owner, "approve", ids=too_many)


def test_a_search_by_meaning_selects_nothing(owner, engine):
    add(owner, "green tea")
    with pytest.raises(InvalidInputError, match="meaning"):
        bulk.plan(owner, "delete", selection=Selection.of({"q": ["tea"]}))


def test_a_search_by_words_selects_what_holds_them(owner, engine):
    tea, _ = add(owner, "Green TEA", "coffee")
    done = do(owner, "approve", selection=Selection.of({"q": ["green tea"], "mode": ["words"]}))
    assert done.count == 1
    assert row(tea).review_status == "approved"


# --- Doing it ------------------------------------------------------------------------------------
def test_approving_says_by_whom_and_when_and_is_found_by_it(owner, engine, alice):
    one, two = add(owner, "green tea", "black tea")
    begun = timezone.now()
    done = do(owner, "approve", ids=[one])
    assert (done.state, done.done, done.skipped) == ("done", 1, 0)
    changed = row(one)
    assert (changed.review_status, changed.reviewed_by) == ("approved", "Alice")
    assert begun <= changed.reviewed_at <= timezone.now()
    assert row(two).review_status == "unreviewed"
    assert changed.rev == 2


def test_every_action_does_what_it_says(owner, engine):
    [one] = add(owner, "green tea")
    for action, status in (
        *(("approve", "approved"), ("reject", "rejected")),
        *(("stale", "stale"), ("unreview", "unreviewed")),
    ):
        do(owner, action, ids=[one])
        assert row(one).review_status == status
    assert (row(one).reviewed_by, row(one).reviewed_at) == ("", None)
    do(owner, "confidence", ids=[one], value="low")
    assert row(one).confidence == "low"
    do(owner, "expire", ids=[one], value="2031-12-01")
    assert (row(one).expiration_date, row(one).expires_at) == (date(2031, 12, 1), None)
    do(owner, "expire", ids=[one], value="2031-12-01T08:00:00+02:00")
    assert (row(one).expiration_date, row(one).expires_at) == (
        None,
        datetime(2031, 12, 1, 6, tzinfo=UTC),
    )
    do(owner, "unexpire", ids=[one])
    assert (row(one).expiration_date, row(one).expires_at) == (None, None)
    do(owner, "delete", ids=[one])
    assert row(one).deleted_at is not None
    do(owner, "restore", ids=[one])
    assert row(one).deleted_at is None
    do(owner, "erase", ids=[one])
    assert (row(one).text, row(one).deleted_at is None) == ("", False)
    assert row(one).rev == 12


def test_the_index_follows(owner, engine):
    one, two = add(owner, "green tea", "black tea")
    do(owner, "reject", ids=[one])
    assert [hit.memory.id for hit in search_memories(owner, "tea").hits] == [two]
    do(owner, "delete", ids=[two])
    assert said(engine.index, "tea") == {one}
    settled(engine)
    assert not Memory.objects.exclude(rev__lte=1).exclude(indexed_rev__gte=2).exists()


def test_the_history_tells_who_what_and_when_with_before_and_after(owner, engine):
    [one] = add(owner, "green tea")
    asked = replace(owner, request_id="req-7", client="agent 1", key_id=uuid.uuid4())
    do(asked, "confidence", ids=[one], value="high")
    revision = queries.history(owner, one)[-1]
    assert (revision.event, revision.changes) == ("UPDATE", {"confidence": ["unknown", "high"]})
    assert (revision.request_id, revision.client, revision.key_id) == (
        *("req-7", "agent 1"),
        asked.key_id,
    )
    assert revision.account_id == owner.account_id
    assert (revision.old_text, revision.new_text) == ("green tea", "green tea")
    do(asked, "delete", ids=[one])
    assert queries.history(owner, one)[-1].old_text == "green tea"


def test_what_is_as_wanted_stays_untouched(owner, engine):
    one, two = add(owner, "green tea", "black tea")
    do(owner, "approve", ids=[one])
    before = row(one)
    done = do(owner, "approve", ids=[one, two])
    assert (done.done, done.unchanged) == (1, 1)
    assert (row(one).rev, row(one).reviewed_at) == (before.rev, before.reviewed_at)
    assert len(queries.history(owner, one)) == 2


def test_a_filter_is_never_reached_past(owner, engine):
    add(owner, *(f"tea {n}" for n in range(20)), user_id="mara")
    kept = add(owner, *(f"tea {n}" for n in range(20)), user_id="jonas")
    assert do(owner, "delete", selection=of("mara")).done == 20
    assert set(visibility.filter_reachable(owner).values_list("id", flat=True)) == set(kept)


def test_expired_and_rejected_ones_belong_to_the_match(owner, engine):
    add(owner, "rejected tea", metadata={"review_status": "rejected"})
    add(owner, "expired tea", expiration_date=date(2020, 1, 1))
    assert do(owner, "delete", selection=EVERYTHING).done == 2


def test_the_same_token_does_it_once(owner, engine):
    [one] = add(owner, "green tea")
    token = bulk.plan(owner, "approve", ids=[one]).token
    first = bulk.run(owner, token)
    assert bulk.run(owner, token).id == first.id
    assert row(one).rev == 2
    assert Operation.objects.count() == 1


# --- Drift ---------------------------------------------------------------------------------------
def test_one_more_that_matches_stops_it(owner, engine):
    add(owner, "green tea", "black tea")
    token = bulk.plan(owner, "delete", selection=of("alice")).token
    add(owner, "white tea")
    before = snapshot()
    with pytest.raises(ConflictError, match=r"2 then, 3 now \(1 added\)"):
        bulk.run(owner, token)
    assert snapshot() == before


def test_one_that_no_longer_matches_stops_it(owner, engine):
    one, _ = add(owner, "green tea", "black tea")
    token = bulk.plan(owner, "approve", selection=UNREVIEWED).token
    do(owner, "reject", ids=[one])
    before = snapshot()
    with pytest.raises(ConflictError, match=r"2 then, 1 now \(1 gone\)"):
        bulk.run(owner, token)
    assert snapshot() == before


def test_one_that_was_changed_stops_it(owner, engine):
    one, two = add(owner, "green tea", "black tea")
    token = bulk.plan(owner, "delete", ids=[one, two]).token
    services.update_memory(owner, one, text="green tea with milk")
    before = snapshot()
    with pytest.raises(ConflictError, match=r"2 then, 2 now \(1 changed\)"):
        bulk.run(owner, token)
    assert snapshot() == before


def test_one_in_the_place_of_another_stops_it(owner, engine):
    [one] = add(owner, "green tea")
    token = bulk.plan(owner, "delete", selection=of("alice")).token
    services.delete_memory(owner, one)
    [other] = add(owner, "black tea")
    with pytest.raises(ConflictError, match="1 then, 1 now"):
        bulk.run(owner, token)
    assert row(other).deleted_at is None


def test_a_named_memory_that_went_meanwhile_stops_it(owner, engine):
    one, two = add(owner, "green tea", "black tea")
    token = bulk.plan(owner, "approve", ids=[one, two]).token
    services.delete_memory(owner, one)
    with pytest.raises(NotFoundError, match="1 of these 2"):
        bulk.run(owner, token)
    assert row(two).review_status == "unreviewed"


def test_what_was_shown_long_ago_is_shown_anew(owner, engine, monkeypatch):
    [one] = add(owner, "green tea")
    token = bulk.plan(owner, "delete", ids=[one]).token
    monkeypatch.setattr(bulk_match, "TOKEN_SECONDS", -1)
    with pytest.raises(ConflictError, match="hour"):
        bulk.run(owner, token)
    assert row(one).deleted_at is None


def test_two_at_once_do_it_once_and_the_other_is_told(owner, engine):
    """Both were shown the same; the second one finds everything changed."""
    ids = add(owner, "green tea", "black tea")
    one, two = (bulk.plan(owner, action, ids=ids).token for action in ("approve", "reject"))
    bulk.run(owner, one)
    with pytest.raises(ConflictError):
        bulk.run(owner, two)
    assert {row(id_).review_status for id_ in ids} == {"approved"}


# --- Who may ---------------------------------------------------------------------------------
@pytest.mark.parametrize("action", REVIEW)
def test_bulk_changes_need_the_scope_review(owner, engine, action):
    [one] = add(owner, "green tea")
    member = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE}))
    for what in ({"ids": [one]}, {"selection": EVERYTHING}):
        with pytest.raises(PermissionDeniedError):
            bulk.plan(member, action, **what)


def test_erasing_needs_the_scope_admin(owner, engine):
    [one] = add(owner, "green tea")
    reviewer = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE, Scope.REVIEW}))
    with pytest.raises(PermissionDeniedError):
        bulk.plan(reviewer, "erase", ids=[one])
    assert bulk.plan(reviewer, "delete", ids=[one]).count == 1


def test_a_right_that_was_lost_since_counts(owner, engine):
    [one] = add(owner, "green tea")
    token = bulk.plan(owner, "delete", ids=[one]).token
    with pytest.raises(PermissionDeniedError):
        bulk.run(replace(owner, scopes=frozenset({Scope.READ})), token)
    assert row(one).deleted_at is None


@pytest.mark.parametrize("action", [*REVIEW, "erase"])
def test_a_list_with_foreign_ids_is_refused_whole(owner, engine, stranger, action):
    own = add(stranger, "their tea", "their coffee")
    [foreign] = add(owner, "green tea")
    if action == "restore":
        for id_ in own:
            services.delete_memory(stranger, id_)
        services.delete_memory(owner, foreign)
    before = snapshot()
    for wrong in (foreign, uuid.uuid4()):
        with pytest.raises(NotFoundError, match=r"1 of these 3 memories were not found"):
            bulk.plan(stranger, action, ids=[*own, wrong])
    assert snapshot() == before


def test_a_selection_ends_at_the_project(owner, engine, stranger):
    [foreign] = add(owner, "green tea")
    add(stranger, "their tea")
    assert do(stranger, "delete", selection=EVERYTHING).done == 1
    assert row(foreign).deleted_at is None


def test_an_entity_limit_holds(owner, engine):
    [mine] = add(owner, "green tea", user_id="mara")
    [other] = add(owner, "black tea", user_id="jonas")
    limited = replace(owner, entity_limit={"user_id": frozenset({"mara"})})
    assert bulk.plan(limited, "delete", selection=EVERYTHING).count == 1
    for action in ("approve", "erase"):
        with pytest.raises(NotFoundError):
            bulk.plan(limited, action, ids=[mine, other])
    with pytest.raises(NotFoundError):
        bulk.entity_plan(limited, "user", "jonas")
    assert do(limited, "delete", selection=EVERYTHING).done == 1
    assert row(other).deleted_at is None


def test_a_token_is_its_callers_alone(owner, engine, stranger):
    [one] = add(owner, "green tea")
    token = bulk.plan(owner, "delete", ids=[one]).token
    limited = replace(owner, entity_limit={"user_id": frozenset({"alice"})})
    another = replace(owner, account_id=uuid.uuid4())
    for other in (stranger, limited, another):
        with pytest.raises(InvalidInputError):
            bulk.run(other, token)
    assert row(one).deleted_at is None


def test_a_token_that_was_tampered_with_does_nothing(owner, engine):
    [one] = add(owner, "green tea")
    token = bulk.plan(owner, "approve", ids=[one]).token
    forged = signing.dumps({"id": uuid.uuid4().hex}, salt="another")
    for wrong in ("", "x", token[:-1], token + "x", token.replace(token[9], "A", 1)[1:], forged):
        with pytest.raises(InvalidInputError):
            bulk.run(owner, wrong)
    assert row(one).review_status == "unreviewed"


# --- The bin -------------------------------------------------------------------------------------
def test_the_bin_is_emptied_and_filled_by_selection(owner, engine, embedder):
    ids = add(owner, "green tea", "black tea", "white tea")
    do(owner, "delete", ids=ids[:2])
    gone = Selection(fields={"deleted": ("yes",)})
    with pytest.raises(InvalidInputError):
        bulk.plan(owner, "approve", selection=gone)
    with pytest.raises(InvalidInputError):
        bulk.plan(owner, "restore", selection=EVERYTHING)
    embedder.batches.clear()
    assert do(owner, "restore", selection=gone).done == 2
    assert said(engine.index, "tea") == set(ids)
    assert MemoryVector.objects.count() == 3
    assert embedder.batches == []
    do(owner, "delete", ids=ids[:1])
    assert do(owner, "erase", selection=gone).done == 1
    assert row(ids[0]).text == ""
    assert row(ids[1]).text == "black tea"


def test_only_what_is_deleted_and_not_erased_can_be_restored(owner, engine):
    live, erased = add(owner, "green tea", "black tea")
    services.erase_memories(owner, [erased])
    for id_ in (live, erased):
        with pytest.raises(NotFoundError):
            bulk.plan(owner, "restore", ids=[id_])


# --- Entities ------------------------------------------------------------------------------------
def test_an_entity_goes_with_all_its_memories(owner, engine):
    gone = add(owner, "green tea", "black tea", user_id="mara")
    [kept] = add(owner, "white tea", user_id="mara2")
    shown = bulk.entity_plan(owner, "user", "mara")
    assert (shown.count, shown.words, len(shown.sample)) == (2, "user mara", 2)
    done = bulk.run(owner, shown.token)
    assert (done.action, done.done) == ("delete", 2)
    assert [entity["id"] for entity in queries.list_entities(owner)] == ["mara2"]
    assert said(engine.index, "tea") == {kept}
    assert bulk.undo(owner, done.id).undone == 2
    assert {row(id_).deleted_at for id_ in gone} == {None}


def test_deleting_an_entity_needs_the_scope_admin(owner, engine):
    add(owner, "green tea", user_id="mara")
    token = bulk.entity_plan(owner, "user", "mara").token
    reviewer = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE, Scope.REVIEW}))
    with pytest.raises(PermissionDeniedError):
        bulk.entity_plan(reviewer, "user", "mara")
    with pytest.raises(PermissionDeniedError):
        bulk.run(reviewer, token)
    assert Memory.objects.filter(deleted_at=None).count() == 1


def test_an_entity_that_is_not_there_or_elsewhere_does_not_exist(owner, engine, stranger):
    add(owner, "green tea", user_id="mara")
    for principal, id_ in ((owner, "nobody"), (stranger, "mara")):
        with pytest.raises(NotFoundError):
            bulk.entity_plan(principal, "user", id_)
    for type_, id_ in (("user_id", "mara"), ("project", "x"), ("user", "")):
        with pytest.raises(InvalidInputError):
            bulk.entity_plan(owner, type_, id_)


# --- Much ----------------------------------------------------------------------------------------
def test_a_plan_costs_the_same_statements_for_any_number(
    owner, engine, django_assert_max_num_queries
):
    add(owner, *(f"tea {n}" for n in range(300)))
    with django_assert_max_num_queries(4):
        bulk.plan(owner, "approve", selection=of("alice"))


def test_a_thousand_at_once_are_all_or_none(owner, engine, monkeypatch):
    add(owner, *(f"tea {n}" for n in range(30)))
    shown = bulk.plan(owner, "delete", selection=of("alice"))
    before = snapshot()
    monkeypatch.setattr(bulk_work, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bulk.run(owner, shown.token)
    assert snapshot() == before
    monkeypatch.undo()
    assert bulk.run(owner, shown.token).done == 30


def test_the_time_of_an_undo_begins_with_the_change(owner, engine):
    [one] = add(owner, "green tea")
    done = do(owner, "delete", ids=[one])
    assert done.undo_until - done.created_at == timedelta(days=30)
    assert done.undo_until <= row(one).deleted_at + timedelta(days=30)
