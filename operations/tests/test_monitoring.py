"""Health and metrics: true, and told to those who may know."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from accounts.models import Account, Membership, Project, Role
from core.version import VERSION
from operations import metrics

LINE = re.compile(r'^([a-z_0-9]+)(?:\{((?:[a-z]+="[^"]*",?)*)\})? (-?[0-9.e+-]+|\+Inf)$')


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The exposition, each line of which has to be of the format."""
    found: dict[Any, float] = {}
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        match = LINE.match(line)
        assert match, line
        labels = frozenset(re.findall(r'([a-z]+)="([^"]*)"', match[2] or ""))
        assert (match[1], labels) not in found, line
        found[match[1], labels] = float(match[3])
    return found


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: Any) -> None:
    for counter in (metrics._REQUESTS, *metrics._REFUSED.values()):
        counter.clear()
    monkeypatch.setattr(metrics._durations, "_found", {})


@pytest.fixture
def scrape(client: Any, api: Any) -> Any:
    def get() -> dict[Any, float]:
        answer = api.get("/metrics")
        assert answer.status_code == 200, answer.content
        assert answer["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return read(answer.content.decode())

    return get


def value(found: dict[Any, float], name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0)


def test_requests_are_counted_by_route_and_never_by_address(scrape: Any, api: Any) -> None:
    for n in range(3):
        api.get(f"/api/v1/memories/secret-{n}")
    api.post("/api/v1/memories", {"content": "tea", "user_id": "me"})
    api.get("/memories/secret-id")
    for n in range(4):
        api.get(f"/nowhere/secret-{n}")
    api.get("/static/css/base.css")
    found = scrape()
    name = "http_requests_total"
    one = {"method": "GET", "path": "/api/v1/memories/{memory_id}"}
    assert value(found, name, **one, status="404") == 3
    assert value(found, name, method="POST", path="/api/v1/memories", status="200") == 1
    assert value(found, name, method="GET", path="/memories/{memory_id}", status="200") == 1
    assert value(found, name, method="GET", path="__unmatched__", status="404") == 4
    assert value(found, name, method="GET", path="/static/{path}", status="200") == 1
    assert "secret" not in str(found)


def test_durations_are_a_histogram_by_route(scrape: Any, api: Any) -> None:
    for _ in range(3):
        api.get("/healthz")
    found = scrape()
    where = {"method": "GET", "path": "/healthz"}
    name = "http_request_duration_seconds"
    assert value(found, f"{name}_count", **where) == 3
    assert 0 < value(found, f"{name}_sum", **where) < 30
    bounds = [value(found, f"{name}_bucket", **where, le=str(b)) for b in metrics.BUCKETS]
    assert bounds == sorted(bounds)
    assert value(found, f"{name}_bucket", **where, le="+Inf") == 3


def test_no_caller_can_make_more_labels(scrape: Any, client: Any) -> None:
    for n in range(5):
        client.generic(f"BREW{n}", "/api/v1/memories/x")
    found = scrape()
    methods = {dict(labels).get("method") for _, labels in found}
    assert methods <= {None, "GET", "POST", "OTHER"}


def test_failures_and_refusals_are_counted_by_surface(
    scrape: Any, client: Any, settings: Any
) -> None:
    settings.RATE_LIMIT_AUTH_FAILURES = 2
    for _ in range(5):
        client.get("/api/v1/memories", REMOTE_ADDR="192.0.2.7")
    client.get("/entities")
    found = scrape()
    assert value(found, "auth_failures_total", surface="rest") == 2
    assert value(found, "auth_failures_total", surface="api") == 1
    assert value(found, "rate_limited_total", surface="rest") == 3
    # Who had to wait is counted with the route it wanted.
    name = "http_requests_total"
    assert value(found, name, method="GET", path="/api/v1/memories", status="429") == 3


def test_index_process_and_bulk_deletions_are_told(scrape: Any, api: Any, engine: Any) -> None:
    api.add("tea")
    before = scrape()
    assert value(before, "mem0dash_index_points") == 1
    assert value(before, "mem0dash_index_pending") >= 0
    assert value(before, "process_resident_memory_bytes") > 10_000_000
    assert value(before, "process_start_time_seconds") > 1_700_000_000
    assert value(before, "mem0dash_info", version=VERSION) == 1
    body = {"user_id": "alice", "review_status": "unreviewed", "confirm": True}
    assert api.post("/api/v1/memories/delete_bulk", body).json()["deleted"] == 1
    name = "memories_bulk_deleted_total"
    assert value(scrape(), name) - value(before, name) == 1


def test_a_gauge_that_fails_takes_none_of_the_others_along(scrape: Any, settings: Any) -> None:
    settings.METRICS_GAUGES = {
        "broken": ("Nothing.", "operations.tests.test_monitoring.nowhere"),
        "mem0dash_index_points": settings.METRICS_GAUGES["mem0dash_index_points"],
    }
    found = scrape()
    assert ("broken", frozenset()) not in found
    assert ("mem0dash_index_points", frozenset()) in found


ADMIN_KEY = "an-admin-key-of-the-instance"


@pytest.fixture
def away(engine: Any) -> Iterator[None]:
    """No statement reaches the database."""
    from django.db import OperationalError
    from django.db.backends.utils import CursorWrapper

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("the server is away")

    # A patch of its own: what comes after the test reaches it again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CursorWrapper, "execute", refused)
        patch.setattr(CursorWrapper, "executemany", refused)
        yield


@pytest.mark.parametrize("name", ["X-API-Key", "Authorization"])
def test_with_a_static_key_metrics_are_told_while_the_database_is_away(
    client: Any, engine: Any, settings: Any, away: None, caplog: Any, name: str
) -> None:
    settings.ADMIN_API_KEY = ADMIN_KEY
    headers = {name: ADMIN_KEY if name == "X-API-Key" else f"Bearer {ADMIN_KEY}"}
    metrics._missing.clear()
    caplog.set_level("WARNING")
    for _ in range(3):
        answer = client.get("/metrics", headers=headers)
        assert answer.status_code == 200
    found = read(answer.content.decode())
    assert value(found, "process_resident_memory_bytes") > 0
    assert ("mem0dash_index_pending", frozenset()) not in found
    assert value(found, "http_requests_total", method="GET", path="/metrics", status="200") == 2
    # What is missing is said once, and not at every scrape; without the way to it.
    lines = [line for line in caplog.records if line.message == "a metric is missing"]
    assert [line.metric for line in lines] == ["mem0dash_index_pending"]
    assert not [line for line in caplog.records if line.exc_info]
    # The same key is told how the parts are, and a wrong one is not let in.
    health = client.get("/healthz", headers=headers)
    assert health.status_code == 503 and health.json()["version"] == VERSION
    assert health.json()["failing"] == ["database"]
    for wrong in (f"{ADMIN_KEY}x", "x", ""):
        assert client.get("/metrics", headers={"X-API-Key": wrong}).status_code == 401


def test_while_the_database_is_away_pages_and_documents_say_so_or_go_on(
    client: Any, engine: Any, away: None
) -> None:
    for path in ("/docs", "/openapi.json", "/static/css/base.css"):
        assert client.get(path).status_code == 200, path
    answer = client.get("/login")
    assert answer.status_code == 502 and b"The database does not answer" in answer.content
    assert client.get("/memories", headers={"X-API-Key": "m0sk_" + "x" * 43}).status_code == 502


def test_a_change_of_health_is_told_once(
    client: Any, engine: Any, monkeypatch: Any, caplog: Any
) -> None:
    caplog.set_level("INFO", logger="operations.health")
    client.get("/healthz")
    caplog.clear()
    indexer = engine.indexer
    monkeypatch.setattr(engine, "indexer", None)
    for _ in range(3):
        assert client.get("/healthz").status_code == 503
    monkeypatch.setattr(engine, "indexer", indexer)
    for _ in range(3):
        assert client.get("/healthz").status_code == 200
    assert not [line for line in caplog.records if line.name.startswith("django")]
    told = [(line.message, line.part) for line in caplog.records if hasattr(line, "part")]
    assert told == [("health check failed", "index"), ("health check passes again", "index")]
    assert not [line for line in caplog.records if line.exc_info]


def test_metrics_are_for_admins(client: Any, engine: Any, key: Any) -> None:
    assert client.get("/metrics").status_code == 401
    lesser = client.get("/metrics", headers={"X-API-Key": key("read", "write", "review")})
    assert lesser.status_code == 403
    assert b"http_requests" not in lesser.content
    bearer = {"Authorization": f"Bearer {key('admin')}"}
    assert client.get("/metrics", headers=bearer).status_code == 200


def test_metrics_of_all_projects_are_not_for_who_has_one_of_them_or_less(
    client: Any, engine: Any, key: Any, bob: Account, project: Project
) -> None:
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    for lesser in (key("admin", owner=bob), key("admin", entity_limit={"user_id": ["mara"]})):
        answer = client.get("/metrics", headers={"X-API-Key": lesser})
        assert (answer.status_code, answer.json()["detail"]) == (
            403,
            "Metrics are of the whole instance: they are for its owner's keys.",
        )


def test_or_for_everybody_where_the_operator_says_so(
    client: Any, engine: Any, settings: Any
) -> None:
    settings.METRICS_PUBLIC = True
    for headers in ({}, {"Authorization": "Bearer nonsense"}):
        answer = client.get("/metrics", headers=headers)
        assert answer.status_code == 200 and b"http_requests_total" in answer.content


def test_health_tells_a_stranger_whether_it_is_well_and_no_more(client: Any, engine: Any) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "qdrant": "reachable"})
    wrong = client.get("/healthz", headers={"Authorization": "Bearer nonsense"})
    assert (wrong.status_code, wrong.json()) == (200, {"ok": True, "qdrant": "reachable"})
    assert client.head("/healthz").status_code == 200
    assert client.post("/healthz").status_code == 405


def test_health_tells_who_has_a_key_the_version_and_each_part(
    client: Any, engine: Any, key: Any, settings: Any
) -> None:
    told = client.get("/healthz", headers={"X-API-Key": key("read")}).json()
    assert told.keys() == {"ok", "version", "qdrant", "parts"}
    assert (told["ok"], told["version"], told["qdrant"]) == (True, VERSION, "reachable")
    assert {part["name"] for part in told["parts"]} == {"database", "index"}
    assert all(part["ok"] and part["since"].endswith("Z") for part in told["parts"])
    settings.HEALTH_DETAILS = True
    assert client.get("/healthz").json().keys() == told.keys()


def test_health_is_503_where_the_index_is_away(
    client: Any, engine: Any, key: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(engine, "indexer", None)
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json() == {"ok": False, "qdrant": "unreachable", "failing": ["index"]}
    told = client.get("/healthz", headers={"X-API-Key": key("read")})
    assert told.status_code == 503
    assert {part["name"]: part["ok"] for part in told.json()["parts"]} == {
        "database": True,
        "index": False,
    }


def test_health_needs_no_database_to_look_a_credential_up_in(
    client: Any, engine: Any, monkeypatch: Any
) -> None:
    from django.db import OperationalError

    from apikeys import identity
    from operations import health

    def away(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr(identity, "find_api_key", away)
    monkeypatch.setattr(health, "check_database", away)
    answer = client.get("/healthz", headers={"X-API-Key": "m0sk_" + "x" * 43})
    assert answer.status_code == 503
    assert answer.json() == {"ok": False, "qdrant": "reachable", "failing": ["database"]}
