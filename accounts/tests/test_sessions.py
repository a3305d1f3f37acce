"""Sessions over REST: tokens, their single use, and what ends them."""

import threading
import time
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from accounts import sessions
from accounts.models import Account, Attempt, Membership, Project, RefreshToken, Role
from accounts.services import change_password, reset_password, set_active
from core.errors import InvalidCredentialError

PASSWORD = "correct horse battery"
LOGIN = {"email": "alice@example.org", "password": PASSWORD}


def post(client: Any, path: str, body: Any, token: str = "", **headers: str) -> Any:
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return client.post(path, body, "application/json", headers=headers)


def login(client: Any, **changes: str) -> dict[str, str]:
    answer = post(client, "/auth/login", {**LOGIN, **changes})
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def status(client: Any, token: str, path: str = "/auth/me", **headers: str) -> tuple[int, Any]:
    answer = client.get(path, headers={"Authorization": f"Bearer {token}", **headers})
    return answer.status_code, answer.json()


def claims(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, settings.JWT_SECRET, algorithms=["HS256"]))


def signed(**changes: Any) -> str:
    """A token with a right signature, and these claims."""
    whole = {"exp": int(time.time()) + 60, "type": "access", "role": "admin", "epoch": 0, **changes}
    found = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(found, settings.JWT_SECRET, algorithm="HS256")


INVALID = (401, {"detail": "Invalid or expired token."})


def test_a_login_gives_two_tokens_in_the_shape_of_the_original(client: Any, alice: Account) -> None:
    body = login(client)
    assert list(body) == ["access_token", "refresh_token", "token_type"]
    assert body["token_type"] == "bearer"
    access, refresh = claims(body["access_token"]), claims(body["refresh_token"])
    now = time.time()
    assert abs(access.pop("exp") - now - 30 * 60) < 5
    assert abs(refresh.pop("exp") - now - 30 * 86400) < 5
    assert access == {"sub": str(alice.id), "role": "admin", "type": "access", "epoch": 0}
    assert UUID(refresh.pop("jti")).version == 4
    assert refresh == {"sub": str(alice.id), "type": "refresh"}
    assert jwt.get_unverified_header(body["access_token"]) == {"alg": "HS256", "typ": "JWT"}


def test_an_access_token_opens_what_its_account_may(
    client: Any, alice: Account, bob: Account
) -> None:
    token = login(client)["access_token"]
    code, me = status(client, token)
    assert code == 200
    assert list(me) == ["id", "name", "email", "role", "created_at"]
    assert me == {
        "id": str(alice.id),
        "name": "Alice",
        "email": "alice@example.org",
        "role": "admin",
        "created_at": alice.created_at.isoformat().replace("+00:00", "Z"),
    }
    his = sessions.open_session(bob).access
    assert status(client, his)[1]["role"] == "member"
    assert status(client, his, "/entities")[0] == 200
    assert status(client, his, "/memories") == (
        403,
        {"detail": "Admin role required to list all memories."},
    )


def test_a_session_follows_the_role_of_now(client: Any, bob: Account) -> None:
    token = sessions.open_session(bob).access
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    assert status(client, token, "/requests")[0] == 200
    Membership.objects.filter(account=bob).delete()
    assert status(client, token, "/entities")[0] == 403
    assert status(client, token)[0] == 200


def test_a_session_chooses_among_the_projects_of_its_account(
    client: Any, alice: Account, bob: Account, charlie: Account, other_project: Project
) -> None:
    no_project = (404, {"detail": "Project not found."})
    his, hers = sessions.open_session(bob).access, sessions.open_session(alice).access
    strangers = sessions.open_session(charlie).access
    for named in ("other", str(other_project.id)):
        headers = {"X-Project": named}
        assert status(client, hers, "/memories", **headers)[0] == 200
        assert status(client, strangers, "/memories", **headers)[0] == 200
        assert status(client, his, "/entities", **headers) == no_project
    for named in ("nowhere", str(uuid4()), "x" * 500, "'"):
        assert status(client, his, "/entities", **{"X-Project": named}) == no_project
        assert status(client, hers, "/entities", **{"X-Project": named}) == no_project
    assert status(client, strangers, "/entities", **{"X-Project": "default"}) == no_project
    assert status(client, strangers, "/entities")[0] == 403
    assert status(client, strangers)[0] == 200


def test_what_is_no_access_token_is_told_in_the_words_of_the_original(
    client: Any, alice: Account
) -> None:
    body = login(client)
    head, payload, signature = body["access_token"].split(".")
    for token in (
        f"{head}.{payload}.{signature[:-2]}AA",
        f"{head}.{payload}.",
        f"{head}..{signature}",
        "..",
        "a.b.c",
        "[" * 400 + ".a.b",
        "x" * 3000 + ".y.z",
        f"{body['access_token']}.x",
        signed(sub=str(alice.id), exp=int(time.time()) - 1),
        signed(sub=str(alice.id), exp=None),
        signed(sub=None),
        signed(sub="alice"),
        signed(sub=str(alice.id), type=None),
        signed(sub=str(alice.id), epoch=None),
        signed(sub=str(alice.id), epoch="0"),
        signed(sub=str(alice.id), epoch=1),
        jwt.encode(claims(body["access_token"]), "", algorithm="none"),
        jwt.encode(claims(body["access_token"]), settings.JWT_SECRET, algorithm="HS384"),
        jwt.encode(claims(body["access_token"]), "y" * 50, algorithm="HS256"),
    ):
        assert status(client, token) == INVALID, token
    wrong_type = (401, {"detail": "Invalid token type."})
    assert status(client, body["refresh_token"]) == wrong_type
    assert status(client, signed(sub=str(alice.id), type="reset")) == wrong_type
    assert status(client, signed(sub=str(uuid4()))) == (401, {"detail": "User not found."})
    answer = client.get("/auth/me", headers={"Authorization": "Bearer a.b.c"})
    assert "WWW-Authenticate" not in answer
    assert answer["Cache-Control"] == "no-store"


def test_a_session_token_is_a_bearer_and_nothing_else(client: Any, alice: Account) -> None:
    token = login(client)["access_token"]
    for headers in ({"X-API-Key": token}, {"Authorization": f"Token {token}"}):
        answer = client.get("/auth/me", headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid API key."})


def test_a_refresh_token_is_good_for_one_new_pair(client: Any, alice: Account) -> None:
    first = login(client)
    answer = post(client, "/auth/refresh", {"refresh_token": first["refresh_token"]})
    assert answer.status_code == 200
    second = answer.json()
    assert list(second) == ["access_token", "refresh_token", "token_type"]
    assert second["refresh_token"] != first["refresh_token"]
    assert status(client, second["access_token"])[0] == 200
    third = post(client, "/auth/refresh", {"refresh_token": second["refresh_token"]})
    assert third.status_code == 200


def test_a_replayed_refresh_token_ends_the_family(client: Any, alice: Account) -> None:
    first, elsewhere = login(client), login(client)
    second = post(client, "/auth/refresh", {"refresh_token": first["refresh_token"]}).json()
    used_up = {"detail": "Refresh token is no longer valid."}
    for token in (
        first["refresh_token"],
        second["refresh_token"],
        elsewhere["refresh_token"],
    ):
        answer = post(client, "/auth/refresh", {"refresh_token": token})
        assert (answer.status_code, answer.json()) == (401, used_up)
    assert not RefreshToken.objects.filter(used_at=None).exists()
    again = login(client)
    assert (
        post(client, "/auth/refresh", {"refresh_token": again["refresh_token"]}).status_code == 200
    )


def test_a_replay_ends_no_session_of_anybody_else(
    client: Any, alice: Account, bob: Account
) -> None:
    his = sessions.open_session(bob)
    token = login(client)["refresh_token"]
    for _ in range(2):
        post(client, "/auth/refresh", {"refresh_token": token})
    assert sessions.refresh_session(his.refresh)


def test_what_is_no_refresh_token_is_told(client: Any, alice: Account) -> None:
    body = login(client)
    jti = str(uuid4())
    sub = str(alice.id)
    for token, told in (
        (body["access_token"], "Invalid token type."),
        ("a.b.c", "Invalid or expired token."),
        ("", "Invalid or expired token."),
        (signed(sub=sub, type="refresh", exp=1, jti=jti), "Invalid or expired token."),
        (signed(sub=sub, type="refresh"), "Invalid or expired token."),
        (signed(sub=sub, type="refresh", jti=jti), "Refresh token is no longer valid."),
        (signed(sub=str(uuid4()), type="refresh", jti=jti), "User not found."),
    ):
        answer = post(client, "/auth/refresh", {"refresh_token": token})
        assert (answer.status_code, answer.json()) == (401, {"detail": told}), token


def test_the_refresh_token_of_another_account_is_not_used_up(alice: Account, bob: Account) -> None:
    his = sessions.open_session(bob)
    stolen = signed(sub=str(alice.id), type="refresh", jti=claims(his.refresh)["jti"])
    with pytest.raises(InvalidCredentialError):
        sessions.refresh_session(stolen)
    assert sessions.refresh_session(his.refresh)


def test_an_expired_row_ends_its_token_and_is_cleared_away(alice: Account) -> None:
    tokens = sessions.open_session(alice)
    RefreshToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(InvalidCredentialError):
        sessions.refresh_session(tokens.refresh)
    sessions.open_session(alice)
    assert RefreshToken.objects.count() == 1


def test_of_ten_uses_at_once_at_most_one_holds_and_a_replay_leaves_none(
    transactional_db: None, alice: Account
) -> None:
    tokens = sessions.open_session(alice)
    start = threading.Barrier(10)
    outcomes: list[str] = []

    def use() -> None:
        try:
            start.wait()
            sessions.refresh_session(tokens.refresh)
            outcomes.append("used")
        except InvalidCredentialError:
            outcomes.append("refused")
        except Exception as error:  # noqa: BLE001  (what it was, the assertion shows)
            outcomes.append(repr(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=use) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 9 + ["used"]
    # Nine of them were replays: the pair that the tenth got ends as well.
    assert not RefreshToken.objects.filter(used_at=None).exists()


ENDINGS = {
    "a changed password": lambda a: change_password(a, current=PASSWORD, new="a whole new world"),
    "a reset password": lambda a: reset_password(email=a.email, password="a whole new world"),
    "the command": lambda a: call_command(
        "reset_password", a.email, "--password", "a whole new world", stdout=StringIO()
    ),
    "a deactivation": lambda a: set_active(email=a.email, active=False),
    "a deactivation that was undone": lambda a: [
        set_active(email=a.email, active=False),
        set_active(email=a.email, active=True),
    ],
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_older_sessions_end_on_the_next_request(client: Any, alice: Account, ending: str) -> None:
    tokens = sessions.open_session(alice)
    assert status(client, tokens.access)[0] == 200
    ENDINGS[ending](alice)
    assert status(client, tokens.access)[0] == 401
    answer = post(client, "/auth/refresh", {"refresh_token": tokens.refresh})
    assert answer.status_code == 401


def test_a_login_that_overlaps_a_new_password_gives_no_session(client: Any, alice: Account) -> None:
    """The password was right when it was checked, and is no more when the tokens are made."""
    checked = sessions.sign_in(email=alice.email, password=PASSWORD, address="192.0.2.1")
    reset_password(email=alice.email, password="a whole new world")
    tokens = sessions.open_session(checked)
    assert status(client, tokens.access) == INVALID
    with pytest.raises(InvalidCredentialError):
        sessions.refresh_session(tokens.refresh)


def test_a_deactivated_account_cannot_sign_in(client: Any, alice: Account) -> None:
    call_command("deactivate_account", " ALICE@example.org", stdout=StringIO())
    answer = post(client, "/auth/login", LOGIN)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid email or password."})
    call_command("deactivate_account", "alice@example.org", "--undo", stdout=StringIO())
    assert login(client)
    with pytest.raises(CommandError, match="There is no account"):
        call_command("deactivate_account", "eve@example.org")


def test_wrong_unknown_and_deactivated_are_answered_alike_after_the_same_work(
    client: Any, alice: Account, bob: Account, monkeypatch: Any
) -> None:
    from django.contrib.auth.hashers import MD5PasswordHasher

    bob.set_password(PASSWORD)
    bob.is_active = False
    bob.save()
    work: list[str] = []
    encode = MD5PasswordHasher.encode
    monkeypatch.setattr(
        MD5PasswordHasher,
        "encode",
        lambda self, password, salt: work.append(password) or encode(self, password, salt),
    )
    answers = []
    for email, password in (
        ("alice@example.org", "wrong"),
        ("nobody@example.org", PASSWORD),
        ("bob@example.org", PASSWORD),
    ):
        work.clear()
        answer = post(client, "/auth/login", {"email": email, "password": password})
        headers = {k: v for k, v in answer.headers.items() if k != "X-Request-ID"}
        answers.append((answer.status_code, answer.content, headers, len(work)))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][:2] == (401, b'{"detail":"Invalid email or password."}')


def test_the_address_is_taken_in_any_case(client: Any, alice: Account) -> None:
    assert login(client, email="  Alice@Example.ORG ")
    assert not Attempt.objects.filter(count__gt=0).exists()


def test_an_imported_secret_does_not_bring_sessions_along(client: Any, alice: Account) -> None:
    """Tokens of mem0's own server, signed with the same JWT_SECRET, lack the epoch."""
    theirs = {"sub": str(alice.id), "role": "admin", "exp": int(time.time()) + 60, "type": "access"}
    token = jwt.encode(theirs, settings.JWT_SECRET, algorithm="HS256")
    assert status(client, token) == INVALID
