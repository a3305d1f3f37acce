"""The limit of failed authentications on /api/v1: for each address, failures alone."""

from typing import Any

import pytest
from django.db import OperationalError

from accounts import throttle
from accounts.models import Attempt
from apikeys import failures

pytestmark = pytest.mark.one_form

PATH = "/api/v1/memories?user_id=me"
WRONG = {"Authorization": "Bearer m0sk_" + "x" * 43}
NOW = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: Any) -> Clock:
    made = Clock()
    monkeypatch.setattr(throttle, "time", made)
    monkeypatch.setattr(failures, "time", made)
    return made


@pytest.fixture
def right(engine: Any, key: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {key()}"}


def statuses(client: Any, headers: dict[str, str], times: int, **rest: Any) -> list[int]:
    return [client.get(PATH, headers=headers, **rest).status_code for _ in range(times)]


def test_after_ten_failures_those_from_there_have_to_wait_until_the_window_ends(
    client: Any, right: dict[str, str], clock: Clock
) -> None:
    assert statuses(client, WRONG, 12) == [401] * 10 + [429] * 2
    for headers in ({}, WRONG):
        answer = client.get(PATH, headers=headers)
        assert answer.status_code == 429
        assert answer.json() == {
            "detail": "Too many failed authentication attempts; try again later."
        }
        assert answer["Retry-After"] == "60"
    clock.now += 59
    assert client.get(PATH, headers=WRONG)["Retry-After"] == "1"
    clock.now += 1
    assert statuses(client, WRONG, 11) == [401] * 10 + [429]


def test_a_right_key_always_passes(
    client: Any, right: dict[str, str], settings: Any, clock: Clock
) -> None:
    """Behind one address there may be many callers: one that fails shuts out nobody else."""
    settings.ADMIN_API_KEY = "an-admin-key-of-the-instance"
    admin = {"Authorization": f"Bearer {settings.ADMIN_API_KEY}"}
    assert statuses(client, WRONG, 11)[-1] == 429
    for headers in (
        right,
        admin,
        {"X-API-Key": settings.ADMIN_API_KEY},
        {**right, "X-API-Key": "x"},
    ):
        assert statuses(client, headers, 3) == [200] * 3
    # What the key opens, and what it does not: only a failure to authenticate has to wait.
    assert client.get("/api/v1/memories/x", headers=right).status_code == 404
    failures.waiting.clear()  # as another process, which knows of nothing
    assert statuses(client, right, 1) == [200]
    assert statuses(client, WRONG, 1) == [429]


def test_no_credential_at_all_counts_as_well(client: Any, right: dict[str, str]) -> None:
    assert statuses(client, {}, 11) == [401] * 10 + [429]


def test_requests_with_the_right_key_never_count(client: Any, right: dict[str, str]) -> None:
    assert statuses(client, WRONG, 9) == [401] * 9
    assert statuses(client, right, 30) == [200] * 30
    assert client.get("/api/v1/memories/x", headers=right).status_code == 404
    assert statuses(client, WRONG, 2) == [401, 429]


def test_a_right_key_costs_no_further_statement(
    client: Any, right: dict[str, str], django_assert_num_queries: Any
) -> None:
    client.get(PATH, headers=right)
    with django_assert_num_queries(2):  # the key, the list
        client.get(PATH, headers=right)
    statuses(client, WRONG, 10)
    with django_assert_num_queries(2):
        client.get(PATH, headers=right)
    with django_assert_num_queries(0):  # it is no key by its form, and has to wait
        assert client.get(PATH, headers={"X-API-Key": "x"}).status_code == 429


def test_each_address_counts_for_itself(client: Any, right: dict[str, str]) -> None:
    def at(address: str) -> dict[str, Any]:
        return {"REMOTE_ADDR": address}

    assert statuses(client, WRONG, 11, **at("192.0.2.1"))[-1] == 429
    assert client.get(PATH, headers=WRONG, **at("192.0.2.2")).status_code == 401
    # One household of IPv6 is one address.
    statuses(client, WRONG, 10, **at("2001:db8::1"))
    assert client.get(PATH, headers=WRONG, **at("2001:db8::2")).status_code == 429
    assert client.get(PATH, headers=WRONG, **at("2001:db8:0:1::1")).status_code == 401


def test_an_address_that_the_caller_writes_itself_changes_nothing(
    client: Any, right: dict[str, str], settings: Any
) -> None:
    settings.TRUST_FORWARDED_FOR = True
    for n in range(10):
        forged = {**WRONG, "X-Forwarded-For": f"192.0.2.{n}"}
        assert client.get(PATH, headers=forged).status_code == 401
    forged = {**WRONG, "X-Forwarded-For": "192.0.2.99"}
    assert client.get(PATH, headers=forged).status_code == 429


def test_elsewhere_nobody_waits(client: Any, right: dict[str, str]) -> None:
    statuses(client, WRONG, 11)
    assert client.get("/memories?user_id=me", headers=right).status_code == 200
    assert client.get("/healthz").status_code == 200
    assert client.get("/metrics", headers=right).status_code == 200
    assert [client.get("/entities", headers=WRONG).status_code for _ in range(12)] == [401] * 12


def test_limit_and_window_are_settings_and_0_is_no_limit(
    client: Any, right: dict[str, str], settings: Any, clock: Clock
) -> None:
    settings.RATE_LIMIT_AUTH_FAILURES = 0
    assert statuses(client, WRONG, 15) == [401] * 15
    assert not Attempt.objects.exists()
    settings.RATE_LIMIT_AUTH_FAILURES = 2
    settings.RATE_LIMIT_AUTH_WINDOW_SECONDS = 600
    assert statuses(client, WRONG, 3) == [401, 401, 429]
    assert client.get(PATH, headers=WRONG)["Retry-After"] == "600"


def test_what_another_process_counted_counts_here(
    client: Any, right: dict[str, str], clock: Clock
) -> None:
    statuses(client, WRONG, 10)
    failures.waiting.clear()  # as another process, which knows of nothing
    assert statuses(client, WRONG, 2) == [429, 429]


def test_while_the_database_is_away_a_failure_is_still_told(
    client: Any, right: dict[str, str], monkeypatch: Any
) -> None:
    def away(*args: Any) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr(failures, "take", away)
    assert statuses(client, {}, 12) == [401] * 12


def test_what_this_process_knows_stays_small(monkeypatch: Any) -> None:
    monkeypatch.setattr(failures, "KNOWN", 10)
    room = failures.WaitingRoom()
    for n in range(50):
        room.put("rest", f"192.0.2.{n}", 60)
    assert len(room._until) <= 10
    assert room.seconds_left("rest", "192.0.2.49") == 60
    assert room.seconds_left("other", "192.0.2.49") == 0
