"""Who fails too often waits; who is right never does."""

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from accounts import throttle
from accounts.models import Account, Project
from oauth import limits
from oauth.tests.flow import App, make_app
from oauth.views import endpoints

pytestmark = pytest.mark.django_db


@pytest.fixture
def app(client: Client) -> App:
    return make_app(client)


@pytest.fixture(autouse=True)
def _few(settings: Any) -> None:
    settings.RATE_LIMIT_TOKEN_FAILURES = settings.RATE_LIMIT_CONSENT_FAILURES = 3


def test_an_address_that_guesses_has_to_wait(app: App) -> None:
    for _ in range(3):
        assert app.refresh("m0rt_x", status=400)["error"] == "invalid_grant"
    answer = app.post(429, grant_type="refresh_token", refresh_token="m0rt_x")
    assert answer.json()["error"] == "temporarily_unavailable"
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    # Elsewhere nobody has failed.
    app.client = Client(REMOTE_ADDR="192.0.2.7")
    assert app.refresh("m0rt_x", status=400)["error"] == "invalid_grant"


def test_who_is_right_gets_through_where_others_fail(
    app: App, bob: Account, project: Project
) -> None:
    code = app.consent(bob, project)
    for number in range(10):
        app.post(400 if number < 3 else 429, grant_type="refresh_token", refresh_token="x")
    app.exchange(code)
    app.refresh()


def test_a_limit_of_0_is_none(app: App, settings: Any) -> None:
    settings.RATE_LIMIT_TOKEN_FAILURES = 0
    for _ in range(20):
        app.refresh("m0rt_x", status=400)


def test_failed_consents_are_counted_for_each_address() -> None:
    assert [limits.count_failed_consent("192.0.2.1") for _ in range(3)] == [0, 0, 0]
    assert 0 < limits.count_failed_consent("192.0.2.1") <= 300
    assert limits.count_failed_consent("192.0.2.2") == 0
    # A network of IPv6 is one address.
    assert [limits.count_failed_consent(f"2001:db8::{n}") for n in range(3)] == [0, 0, 0]
    assert limits.count_failed_consent("2001:db8::9") > 0


def test_a_failure_that_cannot_be_counted_is_told_as_it_is(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(throttle, "take", broken)
    assert app.refresh("m0rt_x", status=400)["error"] == "invalid_grant"


def test_a_database_that_is_away_is_no_wrong_token(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads invalid_grant throws its token away."""

    def broken() -> None:
        raise OperationalError("away")

    monkeypatch.setattr(endpoints, "get_server", broken)
    for path in ("/oauth/token", "/oauth/revoke"):
        sent = {"grant_type": "refresh_token", "refresh_token": "m0rt_x", "token": "x"}
        answer = app.post(502, path, **sent)
        assert answer.json()["error"] == "temporarily_unavailable"
        assert int(answer.headers["Retry-After"]) > 0
