"""When each client called last: whose calls count, and that the log is read once."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, Project
from accounts.queries import project_view
from core.principal import ALL_SCOPES, Principal
from operations.calls import last_calls
from operations.models import RequestLog

pytestmark = pytest.mark.django_db


def called(
    project: Project, account: Account | None, *, seconds: float = 5, **fields: Any
) -> datetime:
    at = timezone.now() - timedelta(seconds=seconds)
    values = {"client": "cursor/2", "status_code": 200, "auth_type": "api_key", **fields}
    RequestLog.objects.create(
        project=project,
        account=account,
        method="POST",
        path="/mcp",
        latency_ms=1,
        created_at=at,
        **values,
    )
    return at


def caller(account: Account | None, project: Project, **fields: Any) -> Principal:
    return Principal(
        project=project_view(project),
        scopes=ALL_SCOPES,
        via="session",
        account_id=account.id if account else None,
        **fields,
    )


def test_the_newest_call_of_each_client_counts(project: Project, bob: Account) -> None:
    called(project, bob, seconds=90)
    newest = called(project, bob, seconds=30)
    other = called(project, bob, seconds=86_400, client="curl/8")
    assert last_calls(caller(bob, project)) == {"cursor/2": newest, "curl/8": other}


def test_only_the_callers_own_calls_in_this_project_count(
    project: Project, other_project: Project, alice: Account, bob: Account
) -> None:
    called(project, alice)
    called(other_project, bob)
    called(project, None)
    assert last_calls(caller(bob, project)) == {}
    assert len(last_calls(caller(alice, project))) == 1


def test_calls_with_static_keys_are_the_owners(project: Project, bob: Account) -> None:
    at = called(project, None, auth_type="admin_api_key")
    assert last_calls(caller(bob, project)) == {}
    assert last_calls(caller(bob, project, is_owner=True)) == {"cursor/2": at}
    assert last_calls(caller(None, project, is_owner=True)) == {"cursor/2": at}


def test_refused_calls_and_visits_of_pages_do_not_count(project: Project, bob: Account) -> None:
    for status in (401, 403, 429, 500):
        called(project, bob, status_code=status)
    called(project, bob, auth_type="session", client="Mozilla/5.0 (Cursor)")
    assert last_calls(caller(bob, project)) == {}


def test_the_log_is_read_once_and_then_what_is_new(project: Project, bob: Account) -> None:
    first = called(project, bob, seconds=600)
    assert last_calls(caller(bob, project)) == {"cursor/2": first}
    # Rows are written a little after their requests.
    late = called(project, bob, seconds=20, client="curl/8")
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert last_calls(caller(bob, project)) == {"cursor/2": first, "curl/8": late}
    assert len(queries) == 1
    assert "created_at" in queries[0]["sql"].split("WHERE")[1].split("GROUP BY")[0]


def test_what_is_older_than_the_log_is_kept_is_forgotten(
    project: Project, bob: Account, settings: Any
) -> None:
    called(project, bob, seconds=3 * 86_400)
    assert last_calls(caller(bob, project))
    settings.REQUEST_LOG_RETENTION_DAYS = 2
    assert last_calls(caller(bob, project)) == {}


def test_any_number_of_names_of_clients_is_bounded(
    project: Project, bob: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operations.calls.MOST_CLIENTS", 3)
    for number in range(10):
        called(project, bob, seconds=100 - number, client=f"client-{number}")
    assert set(last_calls(caller(bob, project))) == {"client-7", "client-8", "client-9"}
