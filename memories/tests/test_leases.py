"""One process at a time: leases are got, kept, lost and taken over."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from mem0dash.errors import ConflictError
from memories import leases
from memories.server_state import Lease

pytestmark = pytest.mark.django_db


def of_another(name: str = "work", seconds: float = 30) -> None:
    until = timezone.now() + timedelta(seconds=seconds)
    Lease.objects.update_or_create(name=name, defaults={"holder": "another", "until": until})


def test_a_lease_is_got_once_and_kept_by_its_holder():
    assert leases.acquire("work")
    assert leases.acquire("work")
    assert leases.is_taken("work")
    assert not leases.acquire("work", holder="another")
    assert leases.renew("work")
    leases.release("work")
    assert not leases.is_taken("work")
    assert not leases.renew("work")
    assert leases.acquire("work", holder="another")


def test_a_lease_of_another_is_taken_over_when_it_has_run_out():
    of_another()
    assert not leases.acquire("work")
    leases.release("work")
    assert leases.is_taken("work")
    of_another(seconds=-1)
    assert leases.acquire("work")


def test_who_is_refused_does_nothing_and_who_is_done_gives_up():
    of_another()
    with pytest.raises(ConflictError), leases.held("work"):
        raise AssertionError("not reached")
    of_another(seconds=-1)
    with leases.held("work"):
        assert leases.is_taken("work")
    assert not leases.is_taken("work")


def test_who_has_lost_a_lease_is_told_and_does_not_take_it_from_its_new_holder(monkeypatch):
    monkeypatch.setattr(leases, "_RENEW_SECONDS", -1)
    with leases.held("work") as lease:
        lease.renew()
        with transaction.atomic():
            lease.lock()
        of_another()
        with pytest.raises(leases.LeaseLostError):
            lease.renew()
        with pytest.raises(leases.LeaseLostError), transaction.atomic():
            lease.lock()
    assert Lease.objects.get().holder == "another"
    assert leases.is_taken("work")


def test_a_lease_that_ran_out_unnoticed_is_lost_too():
    with leases.held("work") as lease:
        Lease.objects.update(until=timezone.now() - timedelta(seconds=1))
        with pytest.raises(leases.LeaseLostError), transaction.atomic():
            lease.lock()
