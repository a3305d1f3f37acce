"""Limits of attempts: windows, addresses, and that nobody is shut out for good."""

import threading
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from accounts import throttle
from accounts.models import Account, Attempt
from accounts.throttle import Limit, RateLimitedError, address_subject, give_back, take

PASSWORD = "correct horse battery"
NOW = 1_800_000_000
FIXED = Limit("fixed", 3, 60, 60)
SLIDING = Limit("sliding", 3, 900, 60)


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: Any) -> Clock:
    made = Clock()
    monkeypatch.setattr(throttle, "time", made)
    return made


def attempt(limit: Limit, subject: str = "x") -> int | None:
    """None when it passes, else the seconds to wait."""
    try:
        take(limit, subject)
    except RateLimitedError as error:
        return error.retry_after
    return None


def test_a_fixed_window_begins_anew_after_its_minute(db: None, clock: Clock) -> None:
    assert [attempt(FIXED) for _ in range(5)] == [None, None, None, 60, 60]
    clock.now += 59
    assert attempt(FIXED) == 1
    assert attempt(FIXED, "somebody else") is None
    assert attempt(Limit("another", 3, 60, 60)) is None
    clock.now += 1
    assert attempt(FIXED) is None


def test_a_sliding_window_lets_attempts_in_as_old_ones_leave(db: None, clock: Clock) -> None:
    for _ in range(3):
        assert attempt(SLIDING) is None
        clock.now += 300
    # The first one leaves 900 seconds after its minute began.
    assert attempt(SLIDING) is None
    assert attempt(SLIDING) == 300
    clock.now += 299
    assert attempt(SLIDING) == 1
    clock.now += 1
    assert attempt(SLIDING) is None


def test_what_is_refused_does_not_count(db: None, clock: Clock) -> None:
    for _ in range(3):
        attempt(SLIDING)
    for _ in range(14):
        clock.now += 60
        assert attempt(SLIDING) is not None
    clock.now += 60
    assert attempt(SLIDING) is None


def test_what_is_given_back_does_not_count(db: None, clock: Clock) -> None:
    for _ in range(10):
        give_back(take(SLIDING, "x"))
    assert [attempt(SLIDING) for _ in range(4)][:3] == [None, None, None]


def test_the_message_names_the_limit(db: None, clock: Clock) -> None:
    for limit, told in ((FIXED, "3 per 1 minute"), (SLIDING, "3 per 15 minutes")):
        for _ in range(3):
            take(limit, "x")
        with pytest.raises(RateLimitedError, match=f"^Rate limit exceeded: {told}$"):
            take(limit, "x")


def test_old_buckets_are_cleared_away(db: None, clock: Clock) -> None:
    for subject in "abcde":
        take(SLIDING, subject)
        clock.now += 60
    clock.now += throttle.KEEP_SECONDS
    take(FIXED, "y")
    assert Attempt.objects.count() == 1


@pytest.mark.parametrize("limit", [FIXED, SLIDING])
def test_of_many_attempts_at_once_no_more_than_the_limit_pass(
    transactional_db: None, limit: Limit
) -> None:
    start = threading.Barrier(12)
    passed: list[bool] = []

    def one() -> None:
        try:
            start.wait()
            passed.append(attempt(limit) is None)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 12
    # Twice the limit where the clock passed a minute between two of them.
    assert sum(passed) in ({3} if Attempt.objects.count() == 1 else {3, 4, 5, 6})


def test_an_ipv6_network_is_one_address() -> None:
    assert address_subject("2001:db8:1:2::1") == address_subject("2001:db8:1:2:ffff::9")
    assert address_subject("2001:db8:1:2::1") != address_subject("2001:db8:1:3::1")
    assert address_subject("::ffff:192.0.2.1") == "192.0.2.1"
    assert address_subject("192.0.2.1") != address_subject("192.0.2.2")
    assert address_subject("not an address") == "not an address"


def login(client: Any, email: str, password: str, address: str = "192.0.2.1", **rest: Any) -> Any:
    body = {"email": email, "password": password}
    return client.post("/auth/login", body, "application/json", REMOTE_ADDR=address, **rest)


def test_wrong_passwords_of_one_account_are_limited_from_whatever_address(
    client: Any, alice: Account, clock: Clock
) -> None:
    for number in range(14):
        answer = login(client, alice.email, "wrong", f"192.0.2.{number}")
        assert answer.status_code == 401
    for password in ("wrong", PASSWORD):
        answer = login(client, alice.email, password, "198.51.100.1")
        assert answer.status_code == 429
        assert answer.json() == {"error": "Rate limit exceeded: 14 per 15 minutes"}
        assert 0 < int(answer["Retry-After"]) <= 900
    clock.now += 900
    assert login(client, alice.email, PASSWORD).status_code == 200


def test_unknown_accounts_are_limited_in_the_same_way(client: Any, db: None, clock: Clock) -> None:
    codes = [login(client, "no@example.org", "x", f"192.0.2.{n}").status_code for n in range(16)]
    assert codes == [401] * 14 + [429] * 2


def test_right_passwords_are_not_counted_as_wrong_ones(
    client: Any, alice: Account, clock: Clock
) -> None:
    for number in range(15):
        assert login(client, alice.email, PASSWORD, f"192.0.2.{number}").status_code == 200


def test_one_address_is_limited_whatever_accounts_it_tries(
    client: Any, db: None, clock: Clock
) -> None:
    forwarded = {"headers": {"X-Forwarded-For": "203.0.113.1"}}
    for number in range(10):
        forwarded["headers"]["X-Forwarded-For"] = f"203.0.113.{number}"
        assert login(client, f"a{number}@example.org", "x", **forwarded).status_code == 401
    answer = login(client, "b@example.org", "x", **forwarded)
    assert answer.status_code == 429
    assert answer.json() == {"error": "Rate limit exceeded: 10 per 1 minute"}
    assert answer["Retry-After"] == "60"
    assert login(client, "b@example.org", "x", "192.0.2.9").status_code == 401
    clock.now += 60
    assert login(client, "b@example.org", "x", **forwarded).status_code == 401


def test_behind_a_trusted_proxy_the_caller_is_counted(
    client: Any, db: None, clock: Clock, settings: Any
) -> None:
    import ipaddress

    settings.TRUSTED_PROXIES = [ipaddress.ip_network("10.0.0.0/8")]
    for number in range(12):
        headers = {"X-Forwarded-For": f"203.0.113.{number}"}
        answer = login(client, f"a{number}@example.org", "x", "10.0.0.1", headers=headers)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/auth/register", {"name": "E", "email": "e@example.org", "password": "long enough"}, 5),
        ("/auth/login", {"email": "e@example.org", "password": "x"}, 10),
        ("/auth/refresh", {"refresh_token": "a.b.c"}, 20),
    ],
)
def test_each_route_has_its_limit_and_bodies_that_do_not_fit_do_not_count(
    client: Any, db: None, clock: Clock, path: str, body: dict[str, str], limit: int
) -> None:
    for _ in range(30):
        assert client.post(path, {}, "application/json").status_code == 422
    for _ in range(limit):
        assert client.post(path, body, "application/json").status_code in {401, 403}
    answer = client.post(path, body, "application/json")
    assert answer.status_code == 429
    assert answer.json() == {"error": f"Rate limit exceeded: {limit} per 1 minute"}
    assert client.post(path, {}, "application/json").status_code == 422


def test_guessing_the_current_password_is_limited_as_well(
    client: Any, key: Any, clock: Clock
) -> None:
    headers = {"X-API-Key": key()}
    body = {"current_password": "wrong", "new_password": "a whole new world"}
    codes = [
        client.post("/auth/change-password", body, "application/json", headers=headers).status_code
        for _ in range(11)
    ]
    assert codes == [401] * 10 + [429]


def test_right_passwords_never_use_up_what_an_address_may_try(
    client: Any, alice: Account, clock: Clock
) -> None:
    assert [login(client, alice.email, PASSWORD).status_code for _ in range(15)] == [200] * 15
    assert not Attempt.objects.filter(count__gt=0).exists()


def test_a_right_refresh_token_always_passes(client: Any, alice: Account, clock: Clock) -> None:
    def refresh(token: str) -> Any:
        return client.post("/auth/refresh", {"refresh_token": token}, "application/json")

    token = login(client, alice.email, PASSWORD).json()["refresh_token"]
    assert [refresh("a.b.c").status_code for _ in range(22)] == [401] * 20 + [429] * 2
    for _ in range(25):
        answer = refresh(token)
        assert answer.status_code == 200
        token = answer.json()["refresh_token"]
    assert refresh("a.b.c").status_code == 429


def test_a_browser_that_is_known_signs_in_at_the_address_of_who_keeps_failing(
    client: Any, alice: Account, clock: Clock
) -> None:
    """As behind one proxy, where all have one address. A stranger's right password has to wait
    there, for a while: checking it is what guessing consists of."""

    def sign_in(client: Any) -> int:
        return int(client.post("/login", {"email": alice.email, "password": PASSWORD}).status_code)

    assert sign_in(client) == 302
    known, stranger = Client(), Client()
    known.cookies["mem0dash_known"] = client.cookies["mem0dash_known"].value
    for number in range(11):
        login(stranger, f"a{number}@example.org", "x", "127.0.0.1")
    assert (sign_in(stranger), sign_in(known)) == (429, 302)
    clock.now += 60
    assert sign_in(stranger) == 302


def test_neither_address_nor_account_is_stored(client: Any, alice: Account) -> None:
    login(client, alice.email, "wrong", "192.0.2.77")
    login(client, "nobody@example.org", "wrong", "192.0.2.77")
    stored = repr(list(Attempt.objects.values_list()))
    # The address, and each account at this address and from everywhere; for the audit, which
    # limits its entries, the address, each account, and all of them together.
    assert Attempt.objects.count() == 5 + 4
    for clear in ("192.0.2", "alice", "nobody", "example"):
        assert clear not in stored
