"""Clients that do the same at the same time."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from accounts.models import Account, AuditEntry, Project
from accounts.queries import project_view
from core.principal import ALL_SCOPES, Principal
from oauth.models import AccessToken, AppGrant, RefreshToken
from oauth.service import connected_apps, principal_of, revoke_app
from oauth.tests.flow import App, make_app
from oauth.tests.test_tokens import age_exchanges
from oauth.validator import OVERLAP_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    """What each of so many threads gave that began together."""
    begin, found, lock = threading.Barrier(count), [], threading.Lock()

    def run() -> None:
        try:
            begin.wait(timeout=60)
            given = work()
            with lock:
                found.append(given)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return found


@pytest.fixture
def app(client: Client, bob: Account, project: Project) -> App:
    made = make_app(client)
    made.connect(bob, project)
    return made


def post(app: App, **fields: str) -> tuple[int, dict[str, Any]]:
    sent = "&".join(f"{name}={value}" for name, value in fields.items())
    answer = Client().post(
        "/oauth/token",
        f"client_id={app.client_id}&{sent}",
        "application/x-www-form-urlencoded",
    )
    return answer.status_code, answer.json()


def holds(token: str) -> bool:
    return principal_of(token, request_id="", client="") is not None


def test_eight_refreshes_at_once_all_give_tokens_that_work(app: App) -> None:
    first = app.tokens
    found = at_once(
        8,
        lambda: post(app, grant_type="refresh_token", refresh_token=first["refresh_token"]),
    )
    assert [status for status, _ in found] == [200] * 8, found
    tokens = [answer for _, answer in found]
    assert all(holds(answer["access_token"]) for answer in tokens)
    assert holds(first["access_token"])
    # And each of them goes on by itself.
    for answer in tokens:
        app.refresh(answer["refresh_token"])
    assert not AuditEntry.objects.filter(action="app.replayed").exists()
    # A copy that comes later ends them all.
    age_exchanges(OVERLAP_SECONDS)
    assert app.refresh(first["refresh_token"], status=400)["error"] == "invalid_grant"
    assert not any(holds(answer["access_token"]) for answer in tokens)
    assert not AppGrant.objects.exists()
    assert not (AccessToken.objects.exists() or RefreshToken.objects.exists())


def test_a_code_that_is_exchanged_twice_at_once_gives_tokens_once(
    app: App, bob: Account, project: Project
) -> None:
    code = app.consent(bob, project)
    found = at_once(
        4,
        lambda: post(
            app,
            grant_type="authorization_code",
            code=code,
            redirect_uri=app.callback,
            code_verifier=app.verifier,
        ),
    )
    assert sorted(status for status, _ in found) == [200, 400, 400, 400], found
    assert AccessToken.objects.count() == 2  # and the one from before


def test_whoever_revokes_while_tokens_are_exchanged_ends_those_too(
    app: App, alice: Account, project: Project
) -> None:
    owner = Principal(
        project=project_view(project),
        scopes=ALL_SCOPES,
        via="session",
        account_id=alice.id,
        is_owner=True,
    )
    [listed] = connected_apps(owner)
    token = app.tokens["refresh_token"]
    turn = iter(range(5))

    def work() -> tuple[int, dict[str, Any]]:
        if next(turn) == 2:
            revoke_app(owner, listed.id)
            return 0, {}
        return post(app, grant_type="refresh_token", refresh_token=token)

    found = at_once(5, work)
    assert {status for status, _ in found} <= {0, 200, 400}, found
    assert not any(holds(answer["access_token"]) for status, answer in found if status == 200)
    assert not RefreshToken.objects.exists()
