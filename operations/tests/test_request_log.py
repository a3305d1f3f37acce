"""The request log: what is kept, off whose path it is written, who may read it, when it goes."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from accounts.sessions import open_session
from core import notes
from core.http.finished import FinishedRequest
from jobs import claims, schedules
from jobs.models import Schedule
from jobs.runner import run_job
from operations import request_log
from operations.models import RequestLog
from operations.pruning import PRUNING
from operations.request_log import prune

OLD = "2020-01-01T00:00:00Z"
ADMIN_KEY = "an-admin-key-of-the-instance"


@pytest.fixture
def kept(gathering: None) -> Callable[[], list[RequestLog]]:
    """The rows; what has gathered is written when a test looks."""

    def rows() -> list[RequestLog]:
        assert request_log.rows.write()
        return list(RequestLog.objects.order_by("id"))

    return rows


def row(**changes: Any) -> RequestLog:
    fields = {
        "method": "GET",
        "path": "/memories",
        "status_code": 200,
        "latency_ms": 1.25,
        "auth_type": "api_key",
        "created_at": timezone.now(),
    }
    return RequestLog(**{**fields, **changes})


def bearer(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {open_session(account).access}"}


def test_a_request_is_kept_with_who_what_and_how_it_ended(
    client: Any, kept: Any, key: Any, alice: Account, project: Project
) -> None:
    made = key("read")
    headers = {"X-API-Key": made, "X-Request-ID": "trace-1", "X-Mem0-Client": "laptop"}
    before = timezone.now()
    assert client.get("/entities?utm_source=cinnamon", headers=headers).status_code == 200
    [found] = kept()
    assert (found.method, found.path, found.status_code) == ("GET", "/entities", 200)
    assert (found.project, found.account, found.key_prefix) == (project, alice, made[:12])
    assert (found.client, found.request_id) == ("laptop", "trace-1")
    assert found.auth_type == "api_key"
    assert before <= found.created_at <= timezone.now()
    assert 0 < found.latency_ms < 60_000
    assert found.latency_ms == round(found.latency_ms, 2)


def test_how_a_request_tried_to_sign_in_is_kept_also_when_it_failed(
    client: Any, kept: Any, key: Any, alice: Account, settings: Any
) -> None:
    settings.ADMIN_API_KEY = ADMIN_KEY
    unknown = "m0sk_" + "x" * 43
    for headers, auth_type, status in (
        ({}, "none", 401),
        ({"Authorization": "Basic eDp5"}, "none", 401),
        (bearer(alice), "bearer", 200),
        ({"Authorization": "Bearer a.b.c"}, "bearer", 401),
        ({"Authorization": "Bearer nonsense"}, "bearer", 401),
        ({"Authorization": f"Bearer {key()}"}, "api_key", 200),
        ({"Authorization": f"Token {key()}"}, "api_key", 200),
        ({"X-API-Key": unknown}, "api_key", 401),
        ({"X-API-Key": ""}, "api_key", 401),
        ({"X-API-Key": ADMIN_KEY}, "admin_api_key", 200),
        ({"Authorization": f"Bearer {ADMIN_KEY}"}, "admin_api_key", 200),
        ({"X-API-Key": ADMIN_KEY, "X-Project": "nowhere"}, "admin_api_key", 404),
    ):
        RequestLog.objects.all().delete()
        assert client.get("/entities", headers=headers).status_code == status
        [found] = kept()
        assert (found.auth_type, found.status_code) == (auth_type, status), headers
        if status != 200:
            assert (found.project, found.account, found.key_prefix) == (None, None, "")
    settings.AUTH_DISABLED = True
    RequestLog.objects.all().delete()
    client.get("/entities")
    assert [r.auth_type for r in kept()] == ["disabled"]


def test_what_nobody_did_is_not_kept(client: Any, kept: Any, key: Any, engine: Any) -> None:
    headers = {"X-API-Key": key()}
    for path in (
        "/docs",
        "/redoc",
        "/openapi.json",
        "/api/health",
        "/health",
        "/healthz",
        "/metrics",
        "/requests",
        "/requests?limit=1",
        "/requests/anything",
        "/static/drf_spectacular_sidecar/swagger-ui-dist/favicon-32x32.png",
    ):
        client.get(path, headers=headers)
    client.options("/entities", headers=headers)
    assert kept() == []
    for path in ("/nowhere", "/", "/auth/setup-status"):
        client.get(path)
    client.post("/entities", {}, "application/json", headers=headers)
    found = [(r.method, r.path, r.status_code) for r in kept()]
    assert found == [
        ("GET", "/nowhere", 404),
        ("GET", "/", 307),
        ("GET", "/auth/setup-status", 200),
        ("POST", "/entities", 405),
    ]


def test_odd_paths_and_names_are_kept_as_far_as_they_can_be(
    client: Any, kept: Any, key: Any
) -> None:
    headers = {"X-API-Key": key(), "User-Agent": "x" * 5000}
    for path in ("/a%00b", "/" + "x" * 3000, "/%ff%fe", "/ü😀", "/a%0ab"):
        client.get(path, headers=headers)
        client.get("/entities", headers=headers)
    rows = kept()
    assert len(rows) == 10
    assert rows[0].path == "/a\ufffdb"
    assert len(rows[2].path) == 500
    assert {len(r.client) for r in rows if r.path == "/entities"} == {200}


def test_no_request_waits_for_the_database(
    client: Any, kept: Any, key: Any, django_assert_num_queries: Any
) -> None:
    headers = {"X-API-Key": key("read")}
    client.get("/auth/setup-status", headers=headers)
    with django_assert_num_queries(1):
        client.get("/auth/setup-status", headers=headers)
    with django_assert_num_queries(0):
        client.get("/nowhere", headers=headers)


def test_a_process_that_keeps_no_log_answers_all_the_same(client: Any, db: None) -> None:
    assert not notes.are_kept()
    assert client.get("/auth/setup-status").status_code == 200
    assert not RequestLog.objects.exists()


def test_rows_are_written_in_batches(kept: Any, django_assert_max_num_queries: Any) -> None:
    for _ in range(350):
        request_log.put(row())
    # SQLite takes fewer than a hundred rows in one statement.
    with django_assert_max_num_queries(12):
        assert request_log.rows.write()
    assert RequestLog.objects.count() == 350


def test_what_does_not_fit_is_dropped_and_told(
    gathering: None, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(request_log.rows, "size", 3)
    for number in range(10):
        request_log.put(row(path=f"/{number}"))
    caplog.set_level("WARNING", logger="core.notes")
    assert request_log.rows.write()
    assert [r.path for r in RequestLog.objects.order_by("id")] == ["/0", "/1", "/2"]
    [told] = [r for r in caplog.records if "dropped" in r.message]
    assert told.notes == 7
    caplog.clear()
    assert request_log.rows.write()
    assert not caplog.records


def test_rows_outlive_an_outage_of_the_database(gathering: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(request_log.rows, "size", 5)
    request_log.put(row(path="/first"))

    def down(rows: Any) -> int:
        raise OperationalError("gone")

    store = request_log.rows.store
    monkeypatch.setattr(request_log.rows, "store", down)
    assert not request_log.rows.write()
    for number in range(5):
        request_log.put(row(path=f"/{number}"))
    started = time.monotonic()
    request_log.put(row(path="/dropped"))
    assert time.monotonic() - started < 1
    assert not request_log.rows.write()
    monkeypatch.setattr(request_log.rows, "store", store)
    assert request_log.rows.write()
    assert [r.path for r in RequestLog.objects.order_by("id")] == [
        "/first",
        *(f"/{number}" for number in range(5)),
    ]


def test_one_row_that_cannot_be_kept_takes_no_other_with_it(
    transactional_db: None, gathering: None, project: Project, alice: Account, caplog: Any
) -> None:
    gone = Project.objects.create(slug="gone", name="Gone")
    for whose in (project, gone, None):
        request_log.put(row(project_id=whose.id if whose else None, account_id=alice.id))
    gone.delete()
    assert request_log.rows.write()
    assert sorted(str(r.project_id) for r in RequestLog.objects.all()) == sorted(
        [str(project.id), "None"]
    )
    caplog.set_level("WARNING", logger="core.notes")
    request_log.rows.write()
    assert [r.notes for r in caplog.records] == [1]


@pytest.fixture
def running(transactional_db: None) -> Iterator[None]:
    notes.start()
    yield
    notes.stop()


def eventually(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_thread_writes_after_a_second_and_a_full_batch_at_once(
    running: None, monkeypatch: Any
) -> None:
    request_log.put(row())
    eventually(lambda: RequestLog.objects.count() == 1)
    for _ in range(1000):
        request_log.put(row())
    eventually(lambda: RequestLog.objects.count() == 1001)


def test_the_thread_goes_on_after_whatever_went_wrong(running: None, monkeypatch: Any) -> None:
    failed = threading.Event()

    def broken(rows: Any) -> int:
        failed.set()
        raise RuntimeError("unforeseen")

    store = request_log.rows.store
    monkeypatch.setattr(request_log.rows, "store", broken)
    request_log.put(row(path="/lost"))
    assert failed.wait(10)
    monkeypatch.setattr(request_log.rows, "store", store)
    request_log.put(row(path="/kept"))
    eventually(lambda: [r.path for r in RequestLog.objects.all()] == ["/kept"])


def test_stopping_writes_what_is_left(transactional_db: None, client: Any) -> None:
    notes.start()
    for _ in range(30):
        client.get("/nowhere")
    notes.stop()
    assert RequestLog.objects.count() == 30
    client.get("/nowhere")
    assert RequestLog.objects.count() == 30
    notes.stop()


@pytest.mark.django_db(transaction=True)
def test_the_server_starts_and_stops_the_log(monkeypatch: Any) -> None:
    import asyncio

    from mem0dash import asgi

    told: list[str] = []

    class Upkeep:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def start(self) -> None:
            told.append("upkeep starts")

        def stop(self) -> None:
            told.append("upkeep stops")

        def is_on_duty(self) -> bool:
            return True

    class Runner(Upkeep):
        def start(self) -> None:
            told.append("jobs start")

        def stop(self) -> None:
            told.append("jobs stop")

    monkeypatch.setattr(asgi, "Upkeep", Upkeep)
    monkeypatch.setattr(asgi, "Runner", Runner)
    monkeypatch.setattr(asgi.runtime, "get_runtime", lambda: None)
    monkeypatch.setattr(asgi.notes, "start", lambda: told.append("log starts"))
    monkeypatch.setattr(asgi.notes, "stop", lambda: told.append("log stops"))

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        told.append(message["type"])

    asyncio.run(asgi.application({"type": "lifespan"}, receive, send))
    assert told.index("log starts") < told.index("lifespan.startup.complete")
    assert told.index("jobs start") < told.index("lifespan.startup.complete")
    assert told.index("jobs stop") < told.index("upkeep stops") < told.index("log stops")
    assert told[-1] == "lifespan.shutdown.complete"


def test_the_newest_requests_with_keys_are_listed(
    client: Any, kept: Any, key: Any, alice: Account
) -> None:
    made = {"X-API-Key": key()}
    client.get("/entities", headers=made)
    client.get("/entities", headers=bearer(alice))
    client.get("/entities", headers={"X-API-Key": "m0sk_" + "x" * 43})
    client.delete("/api-keys/nothing", headers=made)
    kept()
    answer = client.get("/requests", headers=bearer(alice))
    assert answer.status_code == 200
    newest, oldest = answer.json()
    assert list(newest) == [
        "id",
        "method",
        "path",
        "status_code",
        "latency_ms",
        "auth_type",
        "created_at",
    ]
    assert isinstance(newest["id"], str) and newest["created_at"].endswith("Z")
    assert (newest["method"], newest["path"], newest["status_code"]) == (
        "DELETE",
        "/api-keys/nothing",
        404,
    )
    assert (oldest["path"], oldest["auth_type"]) == ("/entities", "api_key")


def test_only_requests_of_ones_own_project_are_listed(
    client: Any, project: Project, other_project: Project, alice: Account, charlie: Account
) -> None:
    for whose in (project, other_project, None):
        row(project=whose, path=f"/{whose.slug if whose else 'nobody'}").save()

    def paths(account: Account, slug: str) -> list[str]:
        headers = {**bearer(account), "X-Project": slug}
        return [r["path"] for r in client.get("/requests", headers=headers).json()]

    assert paths(alice, "default") == ["/default"]
    assert paths(alice, "other") == paths(charlie, "other") == ["/other"]


def test_a_limited_key_sees_its_own_requests_alone(client: Any, key: Any, project: Project) -> None:
    limited = key(entity_limit={"user_id": ["alice"]})
    row(project=project, path="/entities/user/bob", key_prefix="m0sk_another").save()
    row(project=project, path="/mine", key_prefix=limited[:12]).save()
    answer = client.get("/requests", headers={"X-API-Key": limited})
    assert [r["path"] for r in answer.json()] == ["/mine"]


def test_the_log_is_the_admins(client: Any, key: Any, bob: Account) -> None:
    refused = {"detail": "Admin role required."}
    for headers in ({"X-API-Key": key("read", "write", "review")}, bearer(bob)):
        answer = client.get("/requests?limit=0", headers=headers)
        assert (answer.status_code, answer.json()) == (403, refused)
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    assert client.get("/requests", headers=bearer(bob)).status_code == 200


def test_the_limit_is_50_unless_it_is_1_to_200(client: Any, key: Any, project: Project) -> None:
    headers = {"X-API-Key": key()}
    now = timezone.now()
    RequestLog.objects.bulk_create(
        row(project=project, path=f"/{n}", created_at=now + timedelta(seconds=n))
        for n in range(250)
    )

    def paths(query: str) -> list[str]:
        return [r["path"] for r in client.get(f"/requests{query}", headers=headers).json()]

    assert paths("") == [f"/{n}" for n in range(249, 199, -1)]
    assert len(paths("?limit=200")) == 200
    assert paths("?limit=1&utm_source=x") == ["/249"]
    for limit, kind, context in (
        ("0", "greater_than_equal", {"ge": 1}),
        ("-5", "greater_than_equal", {"ge": 1}),
        ("201", "less_than_equal", {"le": 200}),
    ):
        answer = client.get(f"/requests?limit={limit}", headers=headers)
        assert answer.status_code == 422
        [item] = answer.json()["detail"]
        assert (item["type"], item["loc"], item["input"], item["ctx"]) == (
            kind,
            ["query", "limit"],
            limit,
            context,
        )
    for limit in ("x", "", "1.5", "9" * 50):
        assert client.get(f"/requests?limit={limit}", headers=headers).status_code == 422


def test_the_list_takes_one_query_beside_the_credential(
    client: Any, key: Any, project: Project, django_assert_max_num_queries: Any
) -> None:
    headers = {"X-API-Key": key()}
    RequestLog.objects.bulk_create(row(project=project) for _ in range(60))
    client.get("/requests", headers=headers)
    with django_assert_max_num_queries(2):
        assert len(client.get("/requests", headers=headers).json()) == 50


def test_old_requests_are_deleted_in_portions(db: None, settings: Any, monkeypatch: Any) -> None:
    settings.REQUEST_LOG_RETENTION_DAYS = 7
    monkeypatch.setattr(request_log, "PRUNE_ROWS", 10)
    now = timezone.now()
    for age, count in ((timedelta(days=7, minutes=1), 25), (timedelta(days=6, hours=23), 3)):
        RequestLog.objects.bulk_create(row(created_at=now - age) for _ in range(count))
    assert prune() == 25
    assert prune() == 0
    assert RequestLog.objects.count() == 3


def test_the_command_line_prunes_as_well(db: None) -> None:
    row(created_at=timezone.now() - timedelta(days=31)).save()
    row(created_at=timezone.now() - timedelta(days=29)).save()
    out = StringIO()
    call_command("prune_request_logs", stdout=out)
    assert out.getvalue() == "1 requests older than 30 days are deleted.\n"
    assert RequestLog.objects.count() == 1


def test_the_server_prunes_by_itself_every_hour(db: None) -> None:
    row(created_at=timezone.now() - timedelta(days=31)).save()
    row(created_at=timezone.now()).save()
    schedules.ensure()
    Schedule.objects.filter(kind=PRUNING.name).update(next_run_at=OLD)
    schedules.fire_due()
    job = claims.claim([PRUNING.name], claims.ProjectRotation())
    assert job is not None
    run_job(job, threading.Event())
    job.refresh_from_db()
    assert (job.state, job.result) == ("succeeded", "1 request removed")
    assert RequestLog.objects.count() == 1


def test_a_record_needs_nothing_of_the_request_itself(kept: Any) -> None:
    """The queue holds rows, not requests with their bodies."""
    handled = FinishedRequest(timezone.now(), "GET", "/x", 200, 1.0, "id", "none", None)
    request_log.log_request(handled)
    assert [r.path for r in kept()] == ["/x"]
