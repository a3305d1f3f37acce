"""One process at a time: leases are got, kept, lost and taken over."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from core.errors import ConflictError
from jobs import holders, leases
from jobs.models import Lease

pytestmark = pytest.mark.django_db


def of_another(name: str = "work", seconds: float = 30) -> None:
    until = timezone.now() + timedelta(seconds=seconds)
    Lease.objects.update_or_create(name=name, defaults={"holder": "another", "until": until})


def test_a_lease_is_got_once_and_kept_by_its_holder():
    assert leases.acquire("work")
    assert leases.acquire("work")
    assert leases.is_held("work")
    assert not leases.acquire("work", holder="another")
    assert leases.renew("work")
    leases.release("work")
    assert not leases.is_held("work")
    assert not leases.renew("work")
    assert leases.acquire("work", holder="another")


def test_a_lease_of_another_is_taken_over_when_it_has_run_out():
    of_another()
    assert not leases.acquire("work")
    leases.release("work")
    assert leases.is_held("work")
    of_another(seconds=-1)
    assert leases.acquire("work")


def test_who_is_refused_does_nothing_and_who_is_done_gives_up():
    of_another()
    with pytest.raises(ConflictError), leases.hold("work"):
        raise AssertionError("not reached")
    of_another(seconds=-1)
    with leases.hold("work"):
        assert leases.is_held("work")
    assert not leases.is_held("work")


def test_who_has_lost_a_lease_is_told_and_does_not_take_it_from_its_new_holder(monkeypatch):
    monkeypatch.setattr(leases, "_RENEW_SECONDS", -1)
    with leases.hold("work") as lease:
        lease.renew()
        with transaction.atomic():
            lease.lock()
        of_another()
        with pytest.raises(leases.LeaseLostError):
            lease.renew()
        with pytest.raises(leases.LeaseLostError), transaction.atomic():
            lease.lock()
    assert Lease.objects.get().holder == "another"
    assert leases.is_held("work")


def test_a_lease_that_ran_out_unnoticed_is_lost_too():
    with leases.hold("work") as lease:
        Lease.objects.update(until=timezone.now() - timedelta(seconds=1))
        with pytest.raises(leases.LeaseLostError), transaction.atomic():
            lease.lock()


def of_process(holder: str) -> None:
    until = timezone.now() + timedelta(hours=1)
    Lease.objects.update_or_create(name="work", defaults={"holder": holder, "until": until})


@pytest.fixture
def process():
    """A process of this machine that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


needs_proc = pytest.mark.skipif(not holders.PLACE, reason="this system does not tell who lives")


@needs_proc
def test_a_lease_of_a_process_that_was_killed_here_is_free_at_once(process):
    holder = holders.holder_of(process.pid)
    of_process(holder)
    assert leases.is_held("work")
    assert not leases.acquire("work")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # Its parent has not taken note of it yet.
    assert not leases.is_held("work")
    of_process(holder)
    process.wait(timeout=30)
    assert not leases.is_held("work")
    of_process(holder)
    assert leases.acquire("work")


@needs_proc
def test_a_lease_whose_number_another_process_has_got_is_free(process):
    of_process(holders.holder_of(process.pid) + "0")
    assert not leases.is_held("work")


def test_a_lease_of_another_machine_is_not_taken_whether_its_number_is_in_use_here_or_not():
    # Whoever it is, nobody here can see it.
    of_process("another-machine:999999999:1")
    assert leases.is_held("work")
    assert not leases.acquire("work")
