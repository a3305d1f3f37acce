"""Keys from mem0's own server: bcrypt hashes that are verified once, and no oracle for guessers."""

import secrets
import threading
from datetime import UTC, datetime
from typing import Any

import bcrypt
import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from accounts import throttle
from accounts.models import Account, Membership, Project
from apikeys import imported
from apikeys.imported import import_api_key
from apikeys.models import ApiKey
from apikeys.services import digest_of, find_api_key
from core.errors import InvalidInputError

KEY = "m0sk_o0HTR5MX0iZ2StUtaeyOk__aHsfpyzfl8jIR8a5krBE"
MADE = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
USED = datetime(2026, 4, 1, 12, 0, tzinfo=UTC)


def hashed(key: str) -> str:
    """As passlib wrote it, at the lowest cost."""
    return bcrypt.hashpw(key.encode(), bcrypt.gensalt(4, b"2b")).decode()


@pytest.fixture
def verified(monkeypatch: Any) -> list[str]:
    """The keys that went through bcrypt."""
    seen: list[str] = []
    check = bcrypt.checkpw

    def counted(key: bytes, stored: bytes) -> bool:
        seen.append(key.decode())
        return check(key, stored)

    monkeypatch.setattr(imported.bcrypt, "checkpw", counted)
    return seen


def take_over(owner: Account, project: Project, key: str = KEY, **changes: Any) -> ApiKey:
    fields = {
        "owner": owner,
        "project": project,
        "label": "old laptop",
        "prefix": key[:12],
        "bcrypt_hash": hashed(key),
        "created_at": MADE,
        "last_used_at": USED,
    }
    return import_api_key(**{**fields, **changes})


@pytest.fixture
def row(alice: Account, project: Project) -> ApiKey:
    return take_over(alice, project)


def like(key: str) -> str:
    """Another key with the same first 12 characters."""
    return key[:12] + secrets.token_urlsafe(40)[: len(key) - 12]


def ask(client: Any, key: str, address: str = "192.0.2.1") -> Any:
    return client.get("/entities", headers={"X-API-Key": key}, REMOTE_ADDR=address)


def test_an_imported_key_keeps_what_is_known_of_it(row: ApiKey, alice: Account) -> None:
    assert (row.owner, row.label, row.prefix) == (alice, "old laptop", "m0sk_o0HTR5M")
    assert (row.created_at, row.last_used_at) == (MADE, USED)
    assert (row.digest, row.last4, row.expires_at, row.revoked_at) == (None, "", None, None)
    assert row.scopes == ["admin", "read", "review", "write"]


def test_it_is_verified_at_its_first_use_and_never_again(
    client: Any, row: ApiKey, verified: list[str]
) -> None:
    for headers in (
        {"X-API-Key": KEY},
        {"Authorization": f"Token {KEY}"},
        {"Authorization": f"Bearer {KEY}"},
    ):
        assert client.get("/entities", headers=headers).status_code == 200
    assert verified == [KEY]
    row.refresh_from_db()
    assert (row.digest, row.last4) == (digest_of(KEY), KEY[-4:])
    assert row.last_used_at is not None and row.last_used_at > USED


def test_once_verified_it_is_found_in_one_query(
    row: ApiKey, django_assert_num_queries: Any
) -> None:
    assert find_api_key(KEY) is not None
    with django_assert_num_queries(1):
        assert find_api_key(KEY) is not None


@pytest.mark.parametrize("variant", ["2a", "2b", "2y"])
def test_the_variants_of_the_hash_are_understood(
    client: Any, alice: Account, project: Project, variant: str
) -> None:
    take_over(alice, project, bcrypt_hash=hashed(KEY).replace("$2b$", f"${variant}$"))
    assert ask(client, KEY).status_code == 200


def test_another_key_with_its_prefix_is_refused(
    client: Any, row: ApiKey, verified: list[str]
) -> None:
    assert ask(client, like(KEY)).json() == {"detail": "Invalid API key."}
    assert len(verified) == 1
    row.refresh_from_db()
    assert row.digest is None


def test_unknown_keys_never_get_as_far_as_bcrypt(
    client: Any, row: ApiKey, key: Any, verified: list[str]
) -> None:
    ordinary = key()
    for other in ("m0sk_" + "x" * 43, like(ordinary), KEY[:-1], KEY + "A", KEY[:12]):
        assert ask(client, other).status_code == 401
    assert verified == []
    assert ask(client, KEY).status_code == 200
    # Now that it has its digest, its prefix is as good as any other.
    assert ask(client, like(KEY)).status_code == 401
    assert verified == [KEY]


def test_a_revoked_imported_key_is_not_verified(
    client: Any, row: ApiKey, verified: list[str]
) -> None:
    ApiKey.objects.update(revoked_at=timezone.now())
    assert ask(client, KEY).json() == {"detail": "Invalid API key."}
    assert verified == []


def test_wrong_keys_with_a_right_prefix_are_limited_for_each_address(
    client: Any, row: ApiKey, verified: list[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(throttle.time, "time", lambda: 1_800_000_000)
    for _ in range(10):
        assert ask(client, like(KEY)).status_code == 401
    answer = ask(client, like(KEY))
    assert answer.status_code == 429
    assert answer.json() == {"error": "Rate limit exceeded: 10 per 1 minute"}
    # The right one passes all the same.
    assert ask(client, KEY).status_code == 200
    assert ask(client, like(KEY)).status_code == 401  # it has its digest by now


def test_wrong_keys_with_a_right_prefix_are_limited_in_all(
    client: Any, row: ApiKey, verified: list[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(throttle.time, "time", lambda: 1_800_000_000)
    codes = [ask(client, like(KEY), f"192.0.2.{number}").status_code for number in range(65)]
    assert codes == [401] * 60 + [429] * 5
    assert ask(client, KEY, "192.0.2.99").status_code == 200


def test_beyond_the_limit_one_key_is_verified_at_a_time_and_few_wait(
    client: Any, row: ApiKey, verified: list[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(throttle.time, "time", lambda: 1_800_000_000)
    monkeypatch.setattr(imported, "SLOT_SECONDS", 0.01)
    for _ in range(10):
        ask(client, like(KEY))
    with imported._late_slot:
        assert [ask(client, key).status_code for key in (KEY, like(KEY))] == [429, 429]
    with imported._late_places, imported._late_places, imported._late_places:
        assert ask(client, KEY).status_code == 429
    assert len(verified) == 10
    assert ask(client, KEY).status_code == 200


def test_verifications_at_the_same_time_are_few(row: ApiKey, client: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(imported, "_slots", threading.BoundedSemaphore(1))
    monkeypatch.setattr(imported, "SLOT_SECONDS", 0.01)
    with imported._slots:
        answer = ask(client, KEY)
    assert (answer.status_code, answer["Retry-After"]) == (429, "1")
    assert ask(client, KEY).status_code == 200


def test_two_first_uses_at_once_both_hold(
    transactional_db: None, alice: Account, project: Project
) -> None:
    take_over(alice, project)
    start = threading.Barrier(6)
    found: list[bool] = []

    def use() -> None:
        try:
            start.wait()
            found.append(find_api_key(KEY) is not None)
        finally:
            connection.close()

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6
    assert ApiKey.objects.get().digest == digest_of(KEY)


def test_a_key_that_another_request_has_just_verified_holds(row: ApiKey, monkeypatch: Any) -> None:
    """The other one wrote the digest between this one's two looks at the database."""
    adopt = imported.adopt

    def overtaken(key: str, digest: str, *, address: str) -> bool:
        ApiKey.objects.filter(pk=row.pk).update(digest=digest, last4=key[-4:])
        return adopt(key, digest, address=address)

    monkeypatch.setattr(imported, "adopt", overtaken)
    assert find_api_key(KEY) is not None


def test_importing_again_changes_nothing(
    client: Any, row: ApiKey, alice: Account, project: Project
) -> None:
    assert ask(client, KEY).status_code == 200
    again = take_over(alice, project, bcrypt_hash=row.bcrypt, label="another", created_at=USED)
    assert (again.pk, again.label, again.created_at) == (row.pk, "old laptop", MADE)
    assert ApiKey.objects.count() == 1


def test_one_key_in_two_rows_opens_the_one_that_was_first_used(
    client: Any, row: ApiKey, alice: Account, project: Project
) -> None:
    take_over(alice, project)
    assert [ask(client, KEY).status_code for _ in range(2)] == [200, 200]
    assert ApiKey.objects.exclude(digest=None).count() == 1


def test_two_rows_with_one_prefix_are_told_apart(
    client: Any, row: ApiKey, bob: Account, project: Project
) -> None:
    his = like(KEY)
    made = take_over(bob, project, his)
    assert ask(client, his).status_code == 200
    made.refresh_from_db()
    row.refresh_from_db()
    assert (made.digest, row.digest) == (digest_of(his), None)


def test_a_key_is_imported_with_the_rights_of_its_owner(
    bob: Account, charlie: Account, project: Project
) -> None:
    assert take_over(bob, project).scopes == ["read", "write"]
    Membership.objects.filter(account=bob).delete()
    for owner in (bob, charlie):
        with pytest.raises(InvalidInputError, match="role"):
            take_over(owner, project, like(KEY))


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix": ""},
        {"prefix": "m0sk_o0HTR5"},
        {"bcrypt_hash": ""},
        {"bcrypt_hash": "$2b$12$short"},
        {"bcrypt_hash": "$2b$31$" + "a" * 53},
        {"bcrypt_hash": "$1$" + "a" * 57},
        {"bcrypt_hash": digest_of(KEY)},
    ],
)
def test_what_cannot_be_imported_is_told(
    alice: Account, project: Project, changes: dict[str, str]
) -> None:
    with pytest.raises(InvalidInputError, match="An imported key has a prefix"):
        take_over(alice, project, **changes)
    assert not ApiKey.objects.exists()


def test_a_row_that_nothing_can_verify_is_refused_by_the_database(row: ApiKey) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.update(bcrypt="")
