"""Each change sets its own columns and no others, and leaves one entry in the history and, where
somebody listens, one event; one memory or many, done or taken back."""

import ast
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from core.errors import ConflictError
from jobs import claims, kinds, runner
from jobs.models import Event, Job
from jobs.outbox import Subscriber
from memories.adding import service as adding
from memories.bulk import job as bulk_work
from memories.bulk import service as bulk
from memories.demo import service as demo
from memories.editing import change
from memories.editing import service as services
from memories.filters import Comparison
from memories.models import Memory, Revision
from memories.review import service as reviewing

# They tell that something changed, or are the index's own.
STAMPS = frozenset({"rev", "updated_at", "indexed_rev", "claimed_until"})
REVIEW = frozenset({"review_status", "reviewed_by", "reviewed_at"})
TEXT = frozenset({"text", "text_fold", "fingerprint"})
DELETED = frozenset({"deleted_at"})
ERASED = TEXT | DELETED | {"metadata", "source", "actor_id", "categories"}


# --- What one memory is --------------------------------------------------------------------------
@pytest.fixture
def tea(owner: Any, engine: Any) -> list[uuid.UUID]:
    """Two turns of a conversation, with something in every column: stored once, so that their
    fingerprint is not that of their texts."""
    turns = [
        {"role": "user", "name": "Ann", "content": "Drinks green tea"},
        {"role": "assistant", "name": "Bot", "content": "Shall be brewed"},
    ]
    added = adding.add_memories(
        owner,
        messages=turns,
        entities={"user_id": "ann", "agent_id": "bot", "run_id": "r1"},
        metadata={"source": "cli", "confidence": "low", "app_id": "shell", "k": [1]},
        expiration_date=date(2040, 1, 1),
        infer=False,
        dedup=True,
    )
    ids = [uuid.UUID(one["id"]) for one in added.results]
    Memory.objects.filter(id__in=ids).update(categories=["drinks"])
    return ids


def columns(id_: uuid.UUID) -> dict[str, Any]:
    return Memory.objects.values().get(id=id_)


def moved(before: dict[str, Any], id_: uuid.UUID) -> set[str]:
    """The columns that are not as before, without the stamps."""
    after = columns(id_)
    return {name for name in before if before[name] != after[name]} - STAMPS


def entries(id_: uuid.UUID) -> list[Revision]:
    return list(Revision.objects.filter(memory_id=id_).order_by("id"))


# --- Ways to change ------------------------------------------------------------------------------
def singly(owner: Any, ids: list[uuid.UUID], action: str, value: str) -> None:
    for id_ in ids:
        match action:
            case "delete":
                services.delete_memory(owner, id_)
            case "restore":
                services.restore_memories(owner, [id_])
            case "erase":
                services.erase_memories(owner, [id_])
            case "confidence":
                reviewing.set_confidence(owner, id_, value)
            case "expire" | "unexpire":
                reviewing.set_expiry(owner, id_, value)
            case _:
                reviewing.set_review(owner, id_, STATUS[action])


def at_once(owner: Any, ids: list[uuid.UUID], action: str, value: str) -> Callable[[], Any]:
    shown = bulk.plan(owner, action, ids=ids, value=value)
    done = bulk.run(owner, shown.token)
    assert (done.state, done.done) == ("done", len(ids))
    return lambda: bulk.undo(owner, done.id)


def as_job(owner: Any, ids: list[uuid.UUID], action: str, value: str) -> Callable[[], Any]:
    shown = bulk.plan(owner, action, ids=ids, value=value)
    begun = bulk.run(owner, shown.token)
    assert begun.state == "preparing"
    bulk_work.work(lambda rows: None)
    assert bulk.get(owner, begun.id).done == len(ids)

    def take_back() -> None:
        bulk.undo(owner, begun.id)
        bulk_work.work(lambda rows: None)

    return take_back


STATUS = {
    "approve": "approved",
    "reject": "rejected",
    "stale": "stale",
    "unreview": "unreviewed",
}
# Action, value, what moves, and what has to come before it.
ACTIONS: list[tuple[str, str, frozenset[str], tuple[str, str] | None]] = [
    ("approve", "", REVIEW, None),
    ("reject", "", REVIEW, None),
    ("stale", "", REVIEW, None),
    ("unreview", "", REVIEW, ("approve", "")),
    ("expire", "2041-02-03", frozenset({"expiration_date"}), None),
    ("expire", "2041-02-03T10:00:00Z", frozenset({"expiration_date", "expires_at"}), None),
    ("unexpire", "", frozenset({"expiration_date"}), None),
    ("confidence", "high", frozenset({"confidence"}), None),
    ("delete", "", DELETED, None),
    ("restore", "", DELETED, ("delete", "")),
    ("erase", "", ERASED, None),
]
EVENTS = {"delete": "DELETE", "restore": "RESTORE", "erase": "ERASE"}


@pytest.mark.parametrize("way", ["singly", "at_once", "as_job"])
@pytest.mark.parametrize(
    ("action", "value", "named", "first"), ACTIONS, ids=[f"{a[0]}{a[1][:12]}" for a in ACTIONS]
)
def test_an_action_moves_its_own_columns_alone_and_leaves_one_entry(
    owner: Any,
    tea: Any,
    monkeypatch: Any,
    way: str,
    action: str,
    value: str,
    named: Any,
    first: Any,
) -> None:
    [other] = adding.add_memories(
        owner, messages=[{"role": "user", "content": "Rides"}], entities={"user_id": "ann"}
    ).results
    if first:
        singly(owner, tea, *first)
    before = {id_: columns(id_) for id_ in tea}
    untouched = columns(uuid.UUID(other["id"]))
    count = {id_: len(entries(id_)) for id_ in tea}
    if way == "as_job":
        monkeypatch.setattr(bulk, "AT_ONCE", 0)
    take_back = globals()[way](owner, tea, action, value)
    for id_ in tea:
        assert moved(before[id_], id_) == named
        assert columns(id_)["rev"] == before[id_]["rev"] + 1
        [entry] = entries(id_)[count[id_] :]
        assert entry.event == EVENTS.get(action, "UPDATE")
        shown = {"DELETE": set(), "RESTORE": set(), "ERASE": set()}.get(entry.event, named)
        assert set(entry.changes) == shown
        texts = {"UPDATE": (True, True), "DELETE": (True, False), "RESTORE": (False, True)}
        has_old, has_new = texts.get(entry.event, (False, False))
        text = before[id_]["text"]
        assert (entry.old_text, entry.new_text) == (
            text if has_old else None,
            text if has_new else None,
        )
        assert (entry.actor_id, entry.role) == (before[id_]["actor_id"], before[id_]["role"])
        assert entry.at == columns(id_)["updated_at"]
    assert columns(uuid.UUID(other["id"])) == untouched
    if action == "erase":
        return
    if way == "singly":
        for id_ in tea:
            services.undo_change(owner, id_, entries(id_)[-1].id)
    else:
        take_back()
    for id_ in tea:
        # What is deleted again is deleted as of now: its time to be purged begins again.
        assert moved(before[id_], id_) == (DELETED if action == "restore" else set())
        assert columns(id_)["rev"] == before[id_]["rev"] + 2
        assert len(entries(id_)) == count[id_] + 2
    assert columns(uuid.UUID(other["id"])) == untouched


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"text": "Drinks black tea"}, TEXT),
        ({"text": "Drinks green tea"}, set()),
        ({"metadata": {"k": [2]}}, {"metadata"}),
        ({"metadata": {"source": "mail"}}, {"metadata", "source"}),
        ({"metadata": {"review_status": "approved"}}, REVIEW | {"metadata"}),
        (
            {"metadata": {"created_at": "2020-01-01", "run_id": "r2", "user_id": "eve"}},
            {"metadata"},
        ),
        ({"metadata": {"n": 1}, "replace_metadata": True}, {"metadata"}),
        ({"expiration_date": None}, {"expiration_date"}),
        ({"text": "New", "metadata": {"app_id": "mail"}}, TEXT | {"metadata", "app_id"}),
    ],
)
def test_an_edit_moves_what_it_names_alone_and_can_be_taken_back(
    owner: Any, tea: Any, given: Any, named: Any
) -> None:
    before, other = columns(tea[0]), columns(tea[1])
    # Who reviewed is not said, and so stays empty.
    named = named - {"reviewed_by"}
    services.update_memory(owner, tea[0], **given)
    assert moved(before, tea[0]) == named
    _, entry = entries(tea[0])
    assert (entry.event, entry.old_text) == ("UPDATE", before["text"])
    assert entry.new_text == given.get("text", before["text"])
    assert set(entry.changes) == named - TEXT
    services.undo_change(owner, tea[0], entry.id)
    assert moved(before, tea[0]) == set()
    assert len(entries(tea[0])) == 3
    assert columns(tea[1]) == other


def test_deleting_by_a_filter_moves_nothing_else(owner: Any, tea: Any) -> None:
    before = {id_: columns(id_) for id_ in tea}
    assert services.delete_matching(owner, Comparison("user_id", "eq", "ann")) == 2
    assert all(moved(before[id_], id_) == DELETED for id_ in tea)
    assert [[entry.event for entry in entries(id_)] for id_ in tea] == [["ADD", "DELETE"]] * 2


# --- Events --------------------------------------------------------------------------------------
HEARD: list[tuple[Any, str, str]] = []


def _hear(run: Any, event: Event) -> None:
    entry = Revision.objects.get(pk=event.revision_id)
    HEARD.append((event.memory_id, event.kind, entry.event))


LISTENER = Subscriber(name="test", title="Test", wants=lambda project_id, kind: True, deliver=_hear)


@pytest.fixture
def heard(monkeypatch: Any) -> Iterator[Callable[[uuid.UUID], list[str]]]:
    """What the subscriber was told of a memory, once it was told all."""
    monkeypatch.setattr(settings, "EVENT_SUBSCRIBERS", [f"{__name__}.LISTENER"])
    kinds.known_kinds.cache_clear()
    HEARD.clear()

    def of(id_: uuid.UUID) -> list[str]:
        while (job := claims.claim([LISTENER.kind.name], claims.ProjectRotation())) is not None:
            runner.run_job(job, threading.Event())
        return [kind for memory_id, kind, _ in HEARD if memory_id == id_]

    yield of
    kinds.known_kinds.cache_clear()


def test_a_subscriber_hears_of_each_change_once_and_in_order(
    owner: Any, heard: Any, tea: Any
) -> None:
    one, two = tea
    services.update_memory(owner, one, text="Drinks black tea")
    reviewing.set_review(owner, one, "approved")
    services.undo_change(owner, one, entries(one)[-1].id)
    at_once(owner, tea, "approve", "")()
    at_once(owner, tea, "confidence", "high")
    services.delete_memory(owner, one)
    services.restore_memories(owner, [one])
    services.erase_memories(owner, [one])
    changes = [
        *("memory.added", "memory.updated", "memory.reviewed", "memory.reviewed"),
        *("memory.reviewed", "memory.reviewed", "memory.updated"),
        *("memory.deleted", "memory.restored", "memory.erased"),
    ]
    assert heard(one) == changes
    assert heard(two) == [changes[0], *changes[4:7]]
    # Each points at its own entry, and holds no words itself: they would outlive the erasing.
    for id_ in tea:
        told = Event.objects.filter(memory_id=id_).order_by("id")
        assert [event.revision_id for event in told] == [entry.id for entry in entries(id_)]
        assert {event.actor["account_id"] for event in told} == {str(owner.account_id)}
        assert not any(event.payload for event in told)
    assert not Job.objects.exclude(state=Job.State.SUCCEEDED).exists()


def test_what_is_rolled_back_is_told_to_nobody(owner: Any, heard: Any, tea: Any) -> None:
    before, told = columns(tea[0]), Event.objects.count()
    with pytest.raises(RuntimeError), transaction.atomic():
        change.delete(list(Memory.objects.filter(id__in=tea)), principal=owner)
        raise RuntimeError
    with pytest.raises(ConflictError):
        services.restore_memories(owner, [*tea, uuid.uuid4()])
    assert (columns(tea[0]), Event.objects.count()) == (before, told)
    assert heard(tea[0]) == ["memory.added"]


def test_without_a_subscriber_no_event_is_written(owner: Any, tea: Any) -> None:
    services.update_memory(owner, tea[0], text="Drinks black tea")
    services.delete_memory(owner, tea[0])
    assert not Event.objects.exists()
    assert not Job.objects.exists()


def test_sample_data_is_no_news(owner: Any, engine: Any, heard: Any) -> None:
    assert demo.fill_project(owner) > 0
    assert Revision.objects.exists()
    assert not Event.objects.exists()


# --- One writer ----------------------------------------------------------------------------------
def test_entries_of_the_history_are_made_in_one_module() -> None:
    rooms = ("mem0dash", "accounts", "apikeys", "operations", "memories", "dashboard", "jobs")
    makers = {
        path.stem
        for room in rooms
        for path in (settings.BASE_DIR / room).rglob("*.py")
        if not {"tests", "migrations"} & set(path.parts)
        and any(_makes_entry(node) for node in ast.walk(ast.parse(Path(path).read_text())))
    }
    assert makers == {"revisions"}


def _makes_entry(node: ast.AST) -> bool:
    """Revision(…), or Revision.objects.create(…) and the like."""
    match node:
        case ast.Call(func=ast.Name(id="Revision")):
            return True
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="Revision")), attr=name):
            return "create" in name
    return False
