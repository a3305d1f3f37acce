"""The audit: entries are as they were written, are bounded where anybody can bring them about, and
are seen by those whom they concern."""

import json
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts import audit, throttle
from accounts.audit import AuditAction, AuditTarget, account_target
from accounts.models import Account, AuditEntry, Project
from accounts.queries import operator_of, project_view
from core.principal import OPERATOR, Actor, Principal, Scope
from memories.background import retention


class Clock:
    """A time that stands still, so that no minute ends in the middle of a test."""

    def time(self) -> float:
        return 1_800_000_000.0


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "time", Clock())


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the audit takes for now, in a list that a test may change."""
    at = [timezone.now().replace(minute=10)]

    class Watch:
        @staticmethod
        def now() -> Any:
            return at[0]

    monkeypatch.setattr(audit, "timezone", Watch)
    return at


@pytest.fixture
def entry(db: None) -> AuditEntry:
    audit.record(AuditAction.KEY_MADE, actor=OPERATOR, target=AuditTarget("key", uuid4(), "laptop"))
    return AuditEntry.objects.get()


def refused(address: str, email: str = "ghost@example.org") -> None:
    audit.record_refusal(
        AuditAction.SESSION_REFUSED,
        actor=Actor(),
        target=AuditTarget("account", "", email),
        address=address,
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.save(),
        lambda row: row.save(update_fields=["action"]),
        lambda row: row.delete(),
        lambda row: AuditEntry.objects.update(action="x"),
        lambda row: AuditEntry.objects.filter(pk=row.pk).delete(),
        lambda row: AuditEntry.objects.all().delete(),
        lambda row: AuditEntry.objects.bulk_update([row], ["action"]),
    ],
)
def test_an_entry_is_neither_changed_nor_deleted(entry: AuditEntry, change: Any) -> None:
    before = AuditEntry.objects.values().get()
    entry.action = "key.revoked"
    with pytest.raises(TypeError), transaction.atomic():
        change(entry)
    assert AuditEntry.objects.values().get() == before


def test_an_entry_is_one_with_the_change_that_it_tells_of(alice: Account) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        audit.record(AuditAction.KEY_MADE, actor=OPERATOR)
        raise ZeroDivisionError
    assert not AuditEntry.objects.exists()


def test_names_stay_when_the_account_is_gone(bob: Account) -> None:
    actor = Actor(account_id=bob.id, via="session")
    audit.record(AuditAction.ACCOUNT_DEACTIVATED, actor=actor, target=account_target(bob))
    id_ = bob.id
    bob.delete()
    row = AuditEntry.objects.get()
    assert (row.actor_label, row.account_id) == ("Bob", id_)
    assert (row.target_label, row.target_id) == ("Bob (bob@example.org)", str(id_))
    assert AuditEntry.objects.select_related("account").get().account is None


def test_what_no_database_keeps_is_replaced_and_what_is_too_long_is_cut(db: None) -> None:
    audit.record(
        AuditAction.KEY_MADE,
        actor=OPERATOR,
        target=AuditTarget("key", "1", "a\0b" + "x" * 400),
        address="y" * 99,
    )
    row = AuditEntry.objects.get()
    assert row.target_label.startswith("a\ufffdb") and len(row.target_label) == 254
    assert len(row.address) == 45


def test_an_actor_comes_back_from_json_and_from_its_columns_as_it_was(alice: Account) -> None:
    full = Actor(alice.id, "api_key", uuid4(), "m0sk_aaaaaaa", "Firefox", "r-1")
    for actor in (full, OPERATOR, Actor()):
        assert Actor.of_plain(json.loads(json.dumps(actor.plain()))) == actor
        audit.record(AuditAction.KEY_MADE, actor=actor)
        assert AuditEntry.objects.latest("id").actor == actor


# --- Bounds --------------------------------------------------------------------------------------
@pytest.mark.parametrize("of", ["one address", "one account"])
def test_of_many_refusals_in_a_minute_the_first_have_entries_and_the_rest_is_counted(
    db: None, still: None, now: list[Any], of: str
) -> None:
    for n in range(12):
        if of == "one address":
            refused("192.0.2.1", f"ghost{n}@example.org")
        else:
            refused(f"192.0.2.{n}")
    *own, many = AuditEntry.objects.order_by("id")
    assert [row.count for row in own] == [1] * 5
    assert (many.target_kind, many.count) == (audit.MANY, 7)


def test_however_many_come_from_everywhere_the_entries_are_bounded(
    db: None, still: None, now: list[Any]
) -> None:
    for n in range(130):
        refused(f"2001:db8:{n:x}::", f"ghost{n}@example.org")
    assert AuditEntry.objects.count() == 101
    assert AuditEntry.objects.get(target_kind=audit.MANY).count == 30
    # The next hour's are counted in an entry of their own.
    now[0] += timedelta(hours=1)
    refused("192.0.2.1")
    counts = AuditEntry.objects.filter(target_kind=audit.MANY).order_by("at")
    assert list(counts.values_list("count", flat=True)) == [30, 1]


@pytest.mark.django_db(transaction=True)
def test_refusals_at_the_same_time_are_all_counted(still: None, now: list[Any]) -> None:
    barrier = threading.Barrier(8)

    def one() -> None:
        barrier.wait(10)
        try:
            refused("192.0.2.1")
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(AuditEntry.objects.values_list("count", flat=True)) == 8
    assert AuditEntry.objects.exclude(target_kind=audit.MANY).count() == 5


# --- Retention -----------------------------------------------------------------------------------
def test_entries_go_when_their_time_is_over(
    entry: AuditEntry, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PRUNE_ROWS", 2)
    settings.AUDIT_RETENTION_DAYS = 30
    old = timezone.now() - timedelta(days=31)
    for n in range(5):
        AuditEntry(action=AuditAction.KEY_MADE, at=old - timedelta(days=n)).save()
    young = AuditEntry(action=AuditAction.KEY_MADE, at=timezone.now() - timedelta(days=29))
    young.save()
    retention.purge_all()
    assert {row.pk for row in AuditEntry.objects.all()} == {entry.pk, young.pk}


def test_with_no_days_they_stay_for_ever(db: None, settings: Any) -> None:
    settings.AUDIT_RETENTION_DAYS = 0
    AuditEntry(action=AuditAction.KEY_MADE, at=timezone.now() - timedelta(days=9999)).save()
    assert audit.prune() == 0
    assert AuditEntry.objects.count() == 1


# --- Who sees what -------------------------------------------------------------------------------
def seen(principal: Principal) -> set[str]:
    return {row.target_label for rows in audit.visible_entries(principal) for row in rows}


def test_each_sees_what_is_theirs_to_see(
    alice: Account, bob: Account, charlie: Account, project: Project, other_project: Project
) -> None:
    def done(label: str, by: Account | None, where: Project | None) -> None:
        actor = Actor(account_id=by.id, via="session") if by else OPERATOR
        target, place = AuditTarget("", "", label), where.id if where else None
        audit.record(AuditAction.KEY_MADE, actor=actor, target=target, project_id=place)

    for name, by in (("alice", alice), ("bob", bob), ("charlie", charlie), ("operator", None)):
        done(f"{name} here", by, project)
        done(f"{name} there", by, other_project)
        done(f"{name} instance", by, None)

    owner = operator_of("default")
    everything = {f"{name} here" for name in ("alice", "bob", "charlie", "operator")} | {
        f"{name} instance" for name in ("alice", "bob", "charlie", "operator")
    }
    assert seen(owner) == everything
    admin = replace(owner, account_id=charlie.id, is_owner=False, project=project_view(project))
    assert seen(admin) == {
        *("alice here", "bob here", "charlie here", "operator here", "charlie instance")
    }
    for scopes in ({Scope.READ}, {Scope.READ, Scope.WRITE, Scope.REVIEW}):
        member = replace(admin, account_id=bob.id, scopes=frozenset(scopes))
        assert seen(member) == {"bob here", "bob instance"}
    # Of somebody without an account nothing is their own; a limit reaches memories alone.
    assert seen(replace(member, account_id=None)) == set()
    limit = {"user_id": frozenset({"alice"})}
    assert seen(replace(owner, entity_limit=limit)) == set()
    assert seen(replace(admin, entity_limit=limit)) == set()
    # A demoted owner without scope admin.
    assert seen(replace(owner, scopes=frozenset({Scope.READ}), account_id=bob.id)) == {
        *("bob here", "bob instance")
    }


def test_every_action_is_of_one_kind() -> None:
    kinds = [action for actions in audit.KINDS.values() for action in actions]
    assert sorted(kinds) == sorted(AuditAction)
