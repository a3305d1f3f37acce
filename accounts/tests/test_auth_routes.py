"""The routes below /auth in the words and shapes of mem0's own server."""

import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from accounts import sessions, setup
from accounts.models import Account, Attempt, InstanceState
from core.env import ConfigurationError

PASSWORD = "correct horse battery"
EVE = {"name": "Eve", "email": "eve@example.org", "password": PASSWORD}
CLOSED = {"detail": "Registration is closed. An admin account already exists."}
ADMIN_KEY = "an-admin-key-of-the-instance"


@pytest.fixture
def token(db: None, settings: Any, tmp_path: Path) -> str:
    """The setup token of a fresh instance with a data directory of its own."""
    settings.DATA_DIR = tmp_path
    made = setup.offer_setup_token()
    assert made is not None
    return made


@pytest.fixture
def forget(db: None) -> Any:
    """Forgets all attempts, for tests of something else."""
    return lambda: Attempt.objects.all().delete()


def register(client: Any, body: dict[str, Any], header: str | None = None) -> Any:
    headers = {"X-Setup-Token": header} if header is not None else {}
    return client.post("/auth/register", body, "application/json", headers=headers)


def needs_setup(client: Any) -> Any:
    answer = client.get("/auth/setup-status")
    assert answer.status_code == 200
    return answer.json()


def nobody_was_made() -> bool:
    state = InstanceState.objects.get(id=1)
    return state.owner_created_at is None and not Account.objects.exists()


@pytest.mark.parametrize("how", ["header", "field"])
def test_the_setup_token_registers_the_owner_and_closes_set_up(
    client: Any, token: str, how: str, django_capture_on_commit_callbacks: Any
) -> None:
    assert needs_setup(client) == {"needsSetup": True}
    with django_capture_on_commit_callbacks(execute=True):
        answer = (
            register(client, EVE, token)
            if how == "header"
            else register(client, {**EVE, "setup_token": token})
        )
    assert answer.status_code == 200, answer.content
    assert list(answer.json()) == ["access_token", "refresh_token", "token_type"]
    owner = Account.objects.get()
    assert (owner.email, owner.name, owner.is_owner) == ("eve@example.org", "Eve", True)
    state = InstanceState.objects.get()
    assert state.owner_created_at is not None and state.setup_completed_at is not None
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert client.get("/auth/me", headers=headers).json()["role"] == "admin"
    assert needs_setup(client) == {"needsSetup": False}
    assert not setup._path().exists()


def test_without_the_token_nobody_is_made_and_the_answer_says_where_it_is(
    client: Any, token: str, forget: Any
) -> None:
    for body, header in (
        (EVE, None),
        (EVE, ""),
        (EVE, "wrong"),
        (EVE, token[:-1]),
        (EVE, token + "x"),
        (EVE, "é" * 43),
        ({**EVE, "setup_token": "wrong"}, None),
        ({**EVE, "setup_token": None}, None),
        ({**EVE, "setup_token": token}, "wrong"),
    ):
        forget()
        answer = register(client, body, header)
        assert answer.status_code == 403
        told = answer.json()["detail"]
        assert "X-Setup-Token" in told and "file setup_token" in told
        assert token not in answer.content.decode() and str(setup._path()) not in told
    assert nobody_was_made()
    assert setup._path().exists()


def test_while_there_is_no_token_nobody_registers(
    client: Any, db: None, settings: Any, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    for sent in (None, "", " "):
        assert register(client, EVE, sent).status_code == 403
    (tmp_path / "setup_token").write_text("\n")
    assert register(client, EVE, "").status_code == 403
    assert nobody_was_made()


def test_wrong_tokens_are_limited(client: Any, token: str, monkeypatch: Any) -> None:
    from accounts import throttle

    class Clock:
        now = 1_800_000_000.0

        def time(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(throttle, "time", clock)
    for _ in range(2):
        assert [register(client, EVE, "x").status_code for _ in range(5)] == [403] * 5
        answer = register(client, EVE, "x")
        assert answer.json() == {"error": "Rate limit exceeded: 5 per 1 minute"}
        clock.now += 60
    answer = register(client, EVE, "x")
    assert answer.json() == {"error": "Rate limit exceeded: 10 per 15 minutes"}
    # The right one passes, whatever was tried before.
    assert register(client, EVE, token).status_code == 200


def test_a_configured_token_is_the_one_that_counts(client: Any, token: str, settings: Any) -> None:
    settings.SETUP_TOKEN = "a token from the operator"
    assert setup.offer_setup_token() is None
    assert register(client, EVE, token).status_code == 403
    assert register(client, EVE, "a token from the operator").status_code == 200


def test_the_kept_token_is_for_the_owner_alone_and_stays_the_same_until_it_is_used(
    token: str,
) -> None:
    path = setup._path()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip() == token and len(token) >= 32
    assert setup.offer_setup_token() == token
    InstanceState.objects.update(owner_created_at="2026-01-01T00:00Z")
    assert setup.offer_setup_token() is None
    assert not path.exists()


def test_a_data_directory_without_room_for_a_token_is_told(
    db: None, settings: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    settings.DATA_DIR = tmp_path / "file"
    with pytest.raises(ConfigurationError, match="SETUP_TOKEN"):
        setup.offer_setup_token()


def test_after_the_owner_registration_is_closed_whatever_token_comes(
    client: Any, token: str, forget: Any, settings: Any
) -> None:
    assert register(client, EVE, token).status_code == 200
    settings.SETUP_TOKEN = "a token from the operator"
    for sent in (None, token, "wrong", "a token from the operator"):
        forget()
        answer = register(client, {**EVE, "email": "mallory@example.org"}, sent)
        assert (answer.status_code, answer.json()) == (403, CLOSED)
    Account.objects.all().delete()
    forget()
    assert register(client, EVE, "a token from the operator").json() == CLOSED
    assert needs_setup(client) == {"needsSetup": False}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"password": "short"}, "Password must be at least 8 characters."),
        ({"password": "password"}, "This password is too common."),
        ({"name": "x" * 151}, "A name has at most 150 characters."),
    ],
)
def test_an_unusable_registration_leaves_set_up_open(
    client: Any, token: str, changes: dict[str, str], told: str
) -> None:
    answer = register(client, {**EVE, **changes}, token)
    assert (answer.status_code, answer.json()) == (400, {"detail": told})
    assert nobody_was_made()
    assert register(client, EVE, token).status_code == 200


def test_of_twenty_registrations_at_once_exactly_one_makes_the_owner(
    transactional_db: None, settings: Any, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    made = setup.offer_setup_token()
    start = threading.Barrier(20)
    outcomes: list[tuple[int, Any]] = []

    def one(number: int) -> None:
        try:
            client = Client(REMOTE_ADDR=f"192.0.2.{number}")
            start.wait()
            answer = register(client, {**EVE, "email": f"eve{number}@example.org"}, made)
            outcomes.append((answer.status_code, answer.json()))
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in outcomes) == [200] + [403] * 19
    assert all(body == CLOSED for status, body in outcomes if status == 403)
    assert Account.objects.count() == 1
    assert not (tmp_path / "setup_token").exists()


BAD_BODIES = [
    ("/auth/register", {}, ["name", "email", "password"]),
    ("/auth/login", {}, ["email", "password"]),
    ("/auth/refresh", {}, ["refresh_token"]),
    ("/auth/change-password", {}, ["current_password", "new_password"]),
    ("/auth/onboarding-complete", {}, ["use_case"]),
    ("/api-keys", {}, ["label"]),
]


@pytest.mark.parametrize(("path", "body", "missing"), BAD_BODIES)
def test_missing_fields_are_told_in_the_shape_of_the_original(
    client: Any, key: Any, path: str, body: Any, missing: list[str]
) -> None:
    answer = client.post(path, body, "application/json", headers={"X-API-Key": key()})
    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {"type": "missing", "loc": ["body", name], "msg": "Field required", "input": {}}
        for name in missing
    ]


def test_a_refused_body_never_sends_a_secret_back(client: Any, key: Any) -> None:
    headers = {"X-API-Key": key(), "X-Setup-Token": "cinnamon"}
    for path, body in (
        ("/auth/register", {"password": "cinnamon", "setup_token": "cinnamon"}),
        ("/auth/register", {**EVE, "password": ["cinnamon"]}),
        ("/auth/register", {**EVE, "setup_token": {"x": "cinnamon"}}),
        ("/auth/login", {"password": "cinnamon"}),
        ("/auth/login", {"email": "x", "Password": "cinnamon", "password": 5}),
        ("/auth/login", [{"password": "cinnamon"}]),
        ("/auth/refresh", {"refresh_token": ["cinnamon"]}),
        ("/auth/change-password", {"current_password": "cinnamon"}),
        ("/auth/change-password", {"new_password": {"new_password": "cinnamon"}}),
    ):
        answer = client.post(path, body, "application/json", headers=headers)
        assert answer.status_code == 422, path
        assert "cinnamon" not in answer.content.decode(), (path, body)


@pytest.mark.parametrize("email", ["", "eve", "eve@", "a b@example.org", "x" * 300 + "@a.org"])
def test_a_bad_address_is_a_value_error(client: Any, db: None, email: str) -> None:
    answer = client.post("/auth/login", {**EVE, "email": email}, "application/json")
    assert answer.status_code == 422
    [item] = answer.json()["detail"]
    assert (item["type"], item["loc"]) == ("value_error", ["body", "email"])
    assert item["msg"].startswith("value is not a valid email address: ")


def patch(client: Any, body: Any, **headers: str) -> Any:
    return client.patch("/auth/me", body, "application/json", headers=headers)


def test_name_and_address_can_be_changed(client: Any, alice: Account, bob: Account) -> None:
    headers = {"Authorization": f"Bearer {sessions.open_session(alice).access}"}
    changed = patch(client, {"name": "  Alice B. ", "email": "New@Example.org"}, **headers)
    assert changed.status_code == 200
    assert list(changed.json()) == ["id", "name", "email", "role", "created_at"]
    assert (changed.json()["name"], changed.json()["email"]) == ("Alice B.", "new@example.org")
    for body in ({}, {"name": "  "}, {"name": None, "email": None}, {"role": "none"}):
        assert patch(client, body, **headers).json() == changed.json()
    taken = patch(client, {"name": "X", "email": "bob@example.org"}, **headers)
    assert (taken.status_code, taken.json()) == (409, {"detail": "Email is already in use."})
    alice.refresh_from_db()
    assert (alice.name, alice.email) == ("Alice B.", "new@example.org")
    assert patch(client, {"email": "new@example.org"}, **headers).status_code == 200
    assert patch(client, {"name": "x" * 151}, **headers).status_code == 400
    assert patch(client, {"email": "nobody"}, **headers).status_code == 422


def change(client: Any, current: str, new: str, **headers: str) -> Any:
    body = {"current_password": current, "new_password": new}
    return client.post("/auth/change-password", body, "application/json", headers=headers)


def test_a_password_is_changed_with_the_one_so_far(client: Any, alice: Account, key: Any) -> None:
    headers = {"Authorization": f"Bearer {sessions.open_session(alice).access}"}
    wrong = change(client, "wrong", "a whole new world", **headers)
    assert (wrong.status_code, wrong.json()) == (401, {"detail": "Current password is incorrect."})
    short = change(client, PASSWORD, "short", **headers)
    told = {"detail": "Password must be at least 8 characters."}
    assert (short.status_code, short.json()) == (400, told)
    made = key()
    done = change(client, PASSWORD, "a whole new world", **headers)
    assert (done.status_code, done.json()) == (200, {"message": "Password updated."})
    alice.refresh_from_db()
    assert alice.check_password("a whole new world") and alice.session_epoch == 1
    assert client.get("/auth/me", headers=headers).status_code == 401
    assert client.get("/auth/me", headers={"X-API-Key": made}).status_code == 200


def test_a_key_with_less_than_its_owner_does_not_change_the_account(
    client: Any, alice: Account, bob: Account, key: Any, project: Any
) -> None:
    refused = {"detail": "This API key may not change the account of its owner."}
    for made in (
        key("read"),
        key("read", "write", "review"),
        key(entity_limit={"user_id": ["alice"]}),
    ):
        headers = {"X-API-Key": made}
        assert patch(client, {"name": "Mallory"}, **headers).json() == refused
        answer = change(client, PASSWORD, "a whole new world", **headers)
        assert (answer.status_code, answer.json()) == (403, refused)
        assert client.get("/auth/me", headers=headers).json()["name"] == "Alice"
    for made, account in ((key(), alice), (key(owner=bob), bob)):
        headers = {"X-API-Key": made}
        assert patch(client, {"name": "New"}, **headers).json()["id"] == str(account.id)


def test_onboarding_is_accepted(client: Any, key: Any) -> None:
    answer = client.post(
        "/auth/onboarding-complete",
        {"use_case": "notes"},
        "application/json",
        headers={"X-API-Key": key()},
    )
    assert (answer.status_code, answer.json()) == (200, {"message": "Onboarding completed."})


@pytest.mark.parametrize("way", ["admin key", "auth disabled"])
def test_the_instance_itself_acts_on_the_oldest_account(
    client: Any, settings: Any, project: Any, way: str
) -> None:
    headers = {}
    if way == "admin key":
        settings.ADMIN_API_KEY = headers["X-API-Key"] = ADMIN_KEY
    else:
        settings.AUTH_DISABLED = True
    required = {"detail": "Authentication required."}
    for path in ("/auth/me", "/api-keys"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()) == (401, required)
    assert client.get("/requests", headers=headers).status_code == 200
    for number in range(3):
        Account.objects.create(email=f"a{number}@example.org", name=str(number), is_owner=True)
    Account.objects.filter(name="0").update(is_active=False)
    assert client.get("/auth/me", headers=headers).json()["name"] == "1"
    answer = client.post("/api-keys", {"label": "x"}, "application/json", headers=headers)
    assert answer.status_code == 201
    made = {"X-API-Key": answer.json()["key"]}
    assert client.get("/auth/me", headers=made).json()["name"] == "1"


def test_setup_status_tells_nothing_else(client: Any, token: str) -> None:
    for method in (client.get, client.head):
        answer = method("/auth/setup-status", headers={"Authorization": "Bearer nonsense"})
        assert answer.status_code == 200
    assert needs_setup(client) == {"needsSetup": True}
    shown = client.get("/auth/setup-status")
    assert token not in str(shown.headers) and "version" not in str(shown.headers).lower()
