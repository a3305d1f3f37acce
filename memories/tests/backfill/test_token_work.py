"""The token states that memories lack are made behind the scenes, and nobody waits for them."""

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from jobs import leases
from jobs.models import Lease
from memories import runtime
from memories.backfill import token_states as token_work
from memories.background import upkeep
from memories.background.upkeep import Upkeep
from memories.editing import service as services
from memories.models import Memory, MemoryTokens
from memories.search import service as search
from memories.tests.actions import add
from memories.tests.providing import at_once
from memories.tests.token_words import (
    LOADER,
    Loader,
    WordReader,
    kept,
    right,
    with_provider,
    with_reader,
)


@pytest.fixture
def reader(engine: runtime.Runtime) -> WordReader:
    return with_reader(engine, WordReader())


@pytest.fixture
def remote(engine: runtime.Runtime, provider: Any, settings: Any) -> runtime.Runtime:
    """The running engine with a provider's embedder; the reader is not loaded yet."""
    settings.EMBEDDER_LOADER = LOADER
    Loader.begin()
    with_provider(engine, provider)
    return engine


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The providers' configuration is not looked at, and the test's connection is kept."""
    monkeypatch.setattr(runtime.Runtime, "refresh", lambda self: None)
    monkeypatch.setattr(upkeep, "close_old_connections", lambda: None)


def many(owner: Any, count: int) -> list[Any]:
    return add(owner, *(f"note {n} about tea and the number {n * n}" for n in range(count)))


def forget() -> None:
    """As memories are that were stored before there were token states."""
    MemoryTokens.objects.all().delete()


def all_right() -> bool:
    live = Memory.objects.filter(deleted_at=None)
    return all(kept(row.id) == right(row.id) for row in live)


# --- One pass ------------------------------------------------------------------------------------
def test_older_memories_get_their_states_once_and_nothing_else_of_them_changes(
    owner, engine, reader
):
    ids = many(owner, token_work.BATCH * 2 + 3)
    add(owner, "in a conversation", "of two", entities={"run_id": "r"})
    engine.tick()
    forget()
    before = list(Memory.objects.order_by("id").values())
    reader.read_texts.clear()
    assert token_work.make_missing(engine) == len(ids) + 2
    assert all_right()
    assert list(Memory.objects.order_by("id").values()) == before
    assert len(reader.read_texts) == len(set(reader.read_texts)) == len(ids) + 2
    assert token_work.make_missing(engine) == 0
    assert len(reader.read_texts) == len(ids) + 2


def test_what_is_deleted_or_erased_gets_none_until_it_is_restored(owner, engine, reader):
    live, binned, erased = add(owner, "green tea", "black tea", "white tea")
    services.delete_memory(owner, binned)
    services.erase_memories(owner, [erased])
    forget()
    assert token_work.make_missing(engine) == 1
    assert kept(live) == right(live)
    services.restore_memories(owner, [binned])
    assert token_work.make_missing(engine) == 1
    assert kept(binned) == right(binned)


def test_states_of_another_model_are_made_anew(owner, engine, reader):
    one, _ = add(owner, "green tea", "black tea")
    MemoryTokens.objects.filter(memory_id=one).update(states_key="former", data=b"of a former one")
    assert token_work.measure_progress(reader.states_key) == (1, 2)
    assert token_work.make_missing(engine) == 1
    assert token_work.measure_progress(reader.states_key) == (2, 2)
    assert all_right()


def test_without_a_model_that_reads_nothing_is_made(owner, engine):
    add(owner, "green tea")
    assert token_work.make_missing(engine) == 0
    assert token_work.make_for(engine, list(Memory.objects.values_list("id", flat=True))) == 0
    assert not MemoryTokens.objects.exists()


def test_a_pass_that_is_stopped_is_gone_on_with(owner, engine, reader):
    many(owner, token_work.BATCH * 3)
    forget()
    stop = threading.Event()
    reader.meanwhile = stop.set
    assert token_work.make_missing(engine, stop) == token_work.BATCH
    stop.clear()
    reader.read_texts.clear()
    reader.meanwhile = lambda: None
    assert token_work.make_missing(engine, stop) == token_work.BATCH * 2
    assert len(reader.read_texts) == token_work.BATCH * 2  # nothing is read again
    assert all_right()


def test_what_fails_in_the_middle_keeps_what_was_made(owner, engine, reader):
    many(owner, token_work.BATCH * 2)
    forget()
    calls = []

    def fail() -> None:
        calls.append(True)
        if len(calls) == 2:
            raise RuntimeError("the model broke")

    reader.meanwhile = fail
    with pytest.raises(RuntimeError):
        token_work.make_missing(engine)
    assert MemoryTokens.objects.count() == token_work.BATCH
    assert token_work.make_missing(engine) == token_work.BATCH


def test_it_rests_as_long_as_it_worked_unless_somebody_waits_for_it(owner, engine, reader):
    many(owner, token_work.BATCH * 2)

    class Waits(threading.Event):
        waited: list[float]

        def wait(self, timeout: float | None = None) -> bool:
            self.waited.append(timeout or 0)
            return False

    reader.meanwhile = lambda: time.sleep(0.03)
    for gentle, rests in ((True, 2), (False, 0)):
        forget()
        stop = Waits()
        stop.waited = []
        assert token_work.make_missing(engine, stop, gentle=gentle) == token_work.BATCH * 2
        assert len(stop.waited) == rests
        assert all(seconds >= 0.03 for seconds in stop.waited)


def test_the_pages_of_a_pass_are_read_in_the_order_of_the_ids_without_sorting(owner, engine):
    rows = token_work.filter_lacking("some key").order_by("id")
    first = Memory.objects.order_by("id").values_list("id", flat=True).first()
    plan = rows.filter(id__gt=first or "7e0f2c1e-0000-4000-8000-000000000000")[:32].explain()
    if connection.vendor == "sqlite":  # PostgreSQL decides by its statistics
        assert "B-TREE FOR ORDER BY" not in plan
        assert "sqlite_autoindex_memories_memorytokens_1" in plan


def test_the_size_is_that_of_what_is_kept(owner, engine, reader, monkeypatch):
    assert token_work.measure_stored() == (0, 0)
    ids = add(owner, "green tea", "black", "white tea with milk")
    exact = sum(len(kept(id_) or b"") for id_ in ids)
    assert token_work.measure_stored()[1] == exact > 0
    monkeypatch.setattr(token_work, "SAMPLE", 1)  # of more, the sample's mean counts
    first = MemoryTokens.objects.order_by("memory_id").first()
    assert first is not None
    assert token_work.measure_stored() == (3, 3 * len(first.data))


# --- What happens while a text is read -----------------------------------------------------------
def test_a_text_that_changes_while_it_is_read_keeps_only_its_own_states(owner, engine, reader):
    [one, other] = add(owner, "green tea", "black tea")
    forget()
    reader.meanwhile = once(
        lambda: services.update_memory(owner, one, text="a walk by the long river")
    )
    token_work.make_missing(engine)
    assert kept(one) == right(one)
    assert kept(other) == right(other)


def test_a_text_that_changes_while_it_is_read_never_gets_states_of_the_old_one(
    owner, remote, django_db_blocker
):
    remote.prepare_reader()
    [reader] = Loader.made
    [one] = add(owner, "green tea")
    reader.meanwhile = once(
        lambda: services.update_memory(owner, one, text="a walk by the long river")
    )
    assert token_work.make_for(remote, [one]) == 0
    assert kept(one) is None
    assert token_work.make_for_new(remote) == 1  # the change was noted as well
    assert kept(one) == right(one)


def test_another_change_of_the_memory_does_not_cost_it_its_states(owner, engine, reader):
    [one] = add(owner, "green tea")
    forget()
    reader.meanwhile = once(lambda: services.update_memory(owner, one, metadata={"colour": "red"}))
    assert token_work.make_missing(engine) == 1
    assert kept(one) == right(one)


@pytest.mark.parametrize("how", ["erased", "purged"])
def test_what_is_gone_when_it_was_read_leaves_nothing(owner, engine, reader, how):
    one, other = add(owner, "green tea", "black tea")
    forget()

    def go() -> None:
        if how == "erased":
            services.erase_memories(owner, [one])
        else:
            Memory.objects.filter(id=one).delete()

    reader.meanwhile = once(go)
    assert token_work.make_missing(engine) == 1
    assert set(MemoryTokens.objects.values_list("memory_id", flat=True)) == {other}


def once(do: Any) -> Any:
    """Does it the first time that it is called."""
    left = [do]
    return lambda: left.pop()() if left else None


# --- With a provider's embedder ------------------------------------------------------------------
def test_neither_an_add_nor_a_search_loads_the_model_or_reads(owner, remote, quiet):
    [one] = add(owner, "green tea")
    services.update_memory(owner, one, text="green tea with milk")
    found = search.search_memories(owner, "tea with milk")
    assert [hit.memory.id for hit in found.hits] == [one]
    assert (found.mode, Loader.loads) == ("semantic", 0)
    assert remote.reader_state == "loading"
    work = Upkeep(remote)
    work._states_round()
    assert (Loader.loads, remote.reader_state) == (1, "ready")
    assert kept(one) == right(one)
    [reader] = Loader.made
    reader.read_texts.clear()
    [two] = add(owner, "black tea")
    assert reader.read_texts == []  # an add does not wait for a second model
    assert search.search_memories(owner, "black tea").hits[0].memory.id == two
    work._states_round()
    assert reader.read_texts == ["black tea"]  # only what is new: this is no second sweep
    assert kept(two) == right(two)
    assert Loader.loads == 1


def test_the_states_of_an_add_are_there_within_seconds_while_a_long_sweep_goes_on(
    transactional_db, owner, remote, quiet, monkeypatch
):
    monkeypatch.setattr(token_work, "BATCH", 4)
    older = many(owner, 96)
    remote.take_unread(len(older))
    work = Upkeep(remote)
    remote.prepare_reader()
    [reader] = Loader.made
    sweeping = threading.Event()

    def slow() -> None:
        sweeping.set()
        time.sleep(0.3)  # and as long a rest: the sweep takes 14 seconds

    reader.meanwhile = slow
    work.start()
    try:
        assert sweeping.wait(10)
        new = add(owner, "the newest of all", "and one more of them", "and the last one")
        # The sweep would come upon all three of them by chance once in a hundred times.
        assert wait_for(lambda: all(kept(id_) for id_ in new), 2.5)
        assert MemoryTokens.objects.count() < len(older)
    finally:
        reader.meanwhile = lambda: None
        work.stop()
    assert [kept(id_) for id_ in new] == [right(id_) for id_ in new]
    assert reader.threads == {"mem0dash-states"}


def wait_for(there: Any, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if there():
            return True
        time.sleep(0.02)
    return False


def test_what_was_noted_and_lost_is_found_by_the_sweep(owner, remote, quiet):
    [one] = add(owner, "green tea")
    assert remote.take_unread(10) == [one]
    Upkeep(remote)._states_round()
    assert kept(one) == right(one)


def test_a_model_that_is_not_there_is_looked_for_once_and_search_goes_on(owner, remote, quiet):
    Loader.begin(present=False)
    [one] = add(owner, "green tea")
    work = Upkeep(remote)
    work._states_round()
    work._states_round()
    assert (Loader.loads, remote.reader_state) == (1, "missing")
    assert search.search_memories(owner, "tea").hits[0].memory.id == one
    assert kept(one) is None


def test_a_model_that_is_the_embedder_is_not_loaded_a_second_time(
    owner, engine, reader, quiet, settings
):
    settings.EMBEDDER_LOADER = LOADER
    Loader.begin()
    [one] = add(owner, "green tea")
    assert engine.take_unread(10) == []  # it has its states already
    Upkeep(engine)._states_round()
    assert Loader.loads == 0
    assert kept(one) == right(one)


# --- By whom and when ----------------------------------------------------------------------------
def test_a_sweep_comes_at_once_after_a_start_and_after_a_change_and_then_now_and_then(
    owner, engine, reader, quiet
):
    [one] = add(owner, "green tea")
    work = Upkeep(engine)
    for _ in range(2):  # at the start; and with another configuration
        forget()
        work._states_round()
        assert kept(one) == right(one)
        forget()
        work._states_round()
        assert kept(one) is None
        engine.version += 1
    work._states_round()
    forget()
    work._last = {name: at - upkeep.STATES_SECONDS for name, at in work._last.items()}
    work._states_round()
    assert kept(one) == right(one)


def test_one_process_at_a_time_sweeps_and_another_goes_on_when_it_is_gone(
    owner, engine, reader, quiet
):
    [one] = add(owner, "green tea")
    forget()
    until = timezone.now() + timedelta(seconds=30)
    Lease.objects.create(name=token_work.LEASE, holder="another", until=until)
    work = Upkeep(engine)
    work._guarded(work._states_round)
    assert kept(one) is None
    Lease.objects.filter(name=token_work.LEASE).update(until=timezone.now() - timedelta(seconds=1))
    work._guarded(work._states_round)
    assert kept(one) is None  # it does not ask all the time
    work._last = {name: at - upkeep.STATES_AGAIN_SECONDS for name, at in work._last.items()}
    work._guarded(work._states_round)
    assert kept(one) == right(one)
    assert not leases.is_held(token_work.LEASE)


def test_a_server_leaves_the_sweep_to_the_workers_but_makes_what_it_stored_itself(
    owner, shared_engine, provider, settings, quiet
):
    settings.EMBEDDER_LOADER = LOADER
    Loader.begin()
    with_provider(shared_engine, provider)
    [older] = add(owner, "green tea")
    shared_engine.take_unread(10)
    Upkeep(shared_engine, is_worker=True)._on_duty()
    web = Upkeep(shared_engine)
    [newer] = add(owner, "black tea")
    web._states_round()
    assert (kept(older), kept(newer)) == (None, right(newer))
    Upkeep(shared_engine, is_worker=True)._states_round()
    assert kept(older) == right(older)


def test_a_sweep_that_lost_its_lease_ends(owner, engine, reader, quiet, monkeypatch):
    monkeypatch.setattr(leases, "_RENEW_SECONDS", -1)
    many(owner, token_work.BATCH * 3)
    forget()
    reader.meanwhile = lambda: Lease.objects.filter(name=token_work.LEASE).update(holder="another")
    work = Upkeep(engine)
    work._guarded(work._states_round)
    assert MemoryTokens.objects.count() == token_work.BATCH
    assert Lease.objects.get(name=token_work.LEASE).holder == "another"


def test_two_that_make_the_same_at_once_do_not_disturb_each_other(
    transactional_db, owner, engine, reader
):
    many(owner, token_work.BATCH * 4)
    forget()
    outcomes = at_once(lambda _: token_work.make_missing(engine, gentle=False), range(3))
    assert all(isinstance(outcome, int) for outcome in outcomes), outcomes
    assert sum(outcomes) >= token_work.BATCH * 4
    assert all_right()


def test_changes_and_the_sweep_do_not_get_into_each_others_way(
    transactional_db, owner, engine, reader
):
    ids = many(owner, token_work.BATCH * 2)
    forget()
    reader.meanwhile = lambda: time.sleep(0.01)

    def work(number: int) -> Any:
        if number == 0:
            return token_work.make_missing(engine, gentle=False)
        for n, id_ in enumerate(ids[:20]):
            services.update_memory(owner, id_, text=f"text {number} of round {n}")
        return 20

    outcomes = at_once(work, range(3))
    assert all(isinstance(outcome, int) for outcome in outcomes), outcomes
    token_work.make_missing(engine, gentle=False)
    assert all_right()
