"""Reads never depend on a write: none writes, and all go on while nothing can be written."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.utils import timezone

from accounts.models import Account, InstanceState
from apikeys import usage
from apikeys.models import ApiKey
from core import notes
from core.database import schema_version
from core.database.sqlite3.turns import at_most
from core.env import ConfigurationError
from mem0dash.tests.test_rights import PAGE, ROUTES, TABLE, Right
from memories.models import Memory
from operations import health

pytestmark = pytest.mark.usefixtures("engine")

ON_SQLITE = pytest.mark.skipif(connection.vendor != "sqlite", reason="one lock for all writes")
WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER", "TRUNCATE")
# What only looks things up, by a POST.
SEARCHES = {"oss-search", "memserv-search"}
READS = [
    (name, method)
    for name, method, _ in ROUTES
    if (method == "GET" or name in SEARCHES) and TABLE[name, method].ok != 410
]


@pytest.fixture(autouse=True)
def _tries_again() -> None:
    health.writing.forget()


@contextmanager
def locked() -> Iterator[None]:
    """Another program holds SQLite's write lock."""
    name = connection.settings_dict["NAME"]
    with closing(sqlite3.connect(name, isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def ask(api: Any, signed_in: Client, right: Right, method: str, id_: str) -> Any:
    path = right.path.format(id=id_)
    answer = signed_in.get(path) if right.needs == PAGE else api(method, path, right.body)
    if answer.streaming:
        b"".join(answer)
    return answer


@contextmanager
def watched(written: list[str]) -> Iterator[None]:
    """Notes statements that write. That a page has shown its message is kept where that can be done
    at once; see below."""

    def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.lstrip().upper().startswith(WRITES) and "django_session" not in sql:
            written.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        yield


def test_no_read_writes_anything(api: Any, signed_in: Client, gathering: None) -> None:
    """Also not when the key was used, or the session was opened, long ago."""
    id_ = api.add("Alice drinks tea")
    for name, method in READS:
        ApiKey.objects.update(last_used_at=timezone.now() - timedelta(hours=1))
        written: list[str] = []
        with watched(written):
            answer = ask(api, signed_in, TABLE[name, method], method, id_)
        assert answer.status_code < 500, name
        assert not written, (method, name)


def test_the_pages_of_set_up_write_nothing_before_they_are_sent(signed_in: Client) -> None:
    InstanceState.objects.update(setup_completed_at=None)
    pages = {right.path for (_, method), right in TABLE.items() if method == "GET"}
    for page in sorted(path for path in pages if path.startswith("/setup")):
        written: list[str] = []
        with watched(written):
            assert signed_in.get(page).status_code in {200, 302}, page
        assert not written, page


@ON_SQLITE
def test_reads_go_on_while_another_program_holds_the_lock(
    transactional_db: None, api: Any, signed_in: Client, gathering: None
) -> None:
    id_ = api.add("Alice drinks tea")
    before = {
        (name, method): ask(api, signed_in, TABLE[name, method], method, id_).status_code
        for name, method in READS
    }
    ApiKey.objects.update(last_used_at=timezone.now() - timedelta(hours=1))
    health.writing.forget()
    connection.turns.wrote_at = float("-inf")
    with locked():
        during = {
            (name, method): ask(api, signed_in, TABLE[name, method], method, id_).status_code
            for name, method in READS
        }
    # Health tells what there is to tell.
    assert during.pop(("healthz", "GET")) == 503
    del before["healthz", "GET"]
    assert during == before


@ON_SQLITE
def test_a_page_with_a_message_is_shown_while_another_program_holds_the_lock(
    transactional_db: None, api: Any, signed_in: Client
) -> None:
    id_ = api.add("Alice drinks tea")
    assert signed_in.post(f"/dashboard/memories/{id_}/delete").status_code == 302
    with locked():
        shown = signed_in.get("/dashboard/memories")
        assert shown.status_code == 200
    assert signed_in.get("/dashboard/memories").status_code == 200


@ON_SQLITE
def test_writes_are_refused_as_busy_in_every_dialect_and_on_pages(
    transactional_db: None, api: Any, signed_in: Client, alice: Account
) -> None:
    id_ = api.add("Alice drinks tea")
    message = {"messages": [{"role": "user", "content": "I like rice"}], "user_id": "alice"}
    calls = [
        lambda: api.post("/memories", message),
        lambda: api.put(f"/memories/{id_}", {"text": "coffee"}),
        lambda: api.delete(f"/memories/{id_}"),
        lambda: api.delete("/memories?user_id=alice"),
        lambda: api.delete("/entities/user/alice"),
        lambda: api.post("/reset", {}),
        lambda: api.post("/api-keys", {"label": "x"}),
        lambda: api.post("/configure", {"custom_instructions": "brief"}),
        lambda: api.post("/auth/login", {"email": alice.email, "password": "wrong password"}),
        lambda: api.post("/api/v1/memories", {"content": "I like rice", "user_id": "alice"}),
        lambda: api.put(f"/api/v1/memories/{id_}", {"content": "coffee"}),
        lambda: api.delete(f"/api/v1/memories/{id_}"),
        lambda: signed_in.post(f"/dashboard/memories/{id_}/delete"),
        lambda: signed_in.post(
            "/login", {"email": alice.email, "password": "correct horse battery"}
        ),
    ]
    with locked():
        for call in calls:
            with at_most(0.05):
                answer = call()
            assert answer.status_code == 503, answer.content
            assert int(answer["Retry-After"]) >= 1
            assert b"The database is busy" in answer.content
            if answer["Content-Type"].startswith("application/json"):
                code = answer.json().get("code") or answer.json()["error"]
                assert code in {"datastore_busy", "backend_unavailable"}
    assert Memory.objects.get(id=id_).rev == 1
    assert api.post("/memories", message).status_code == 200


@ON_SQLITE
def test_a_right_session_signs_out_of_a_locked_database_with_a_clear_answer(
    transactional_db: None, signed_in: Client
) -> None:
    with locked(), at_most(0.05):
        answer = signed_in.post("/logout")
    assert answer.status_code == 503 and b"The database is busy" in answer.content


@ON_SQLITE
def test_a_wrong_key_is_refused_as_wrong_while_nothing_can_be_counted(
    transactional_db: None, as_key: Any, engine: Any
) -> None:
    with locked():
        answer = as_key("m0sk_" + "x" * 43).get("/api/v1/memories?user_id=alice")
    assert answer.status_code == 401


def test_last_uses_are_written_together_and_wait_while_that_is_not_possible(
    transactional_db: None, api: Any, gathering: None
) -> None:
    used = timezone.now()
    assert api.get("/entities").status_code == 200
    assert ApiKey.objects.get().last_used_at is None
    if connection.vendor == "sqlite":
        with locked(), at_most(0.05):
            assert usage.uses.write() is False
    assert usage.uses.write() is True
    first = ApiKey.objects.get().last_used_at
    assert first is not None and first >= used
    # Nothing to write within the minute, however often the key is used.
    for _ in range(3):
        api.get("/entities")
    assert not usage.uses.count
    assert usage.uses.write() is True
    assert ApiKey.objects.get().last_used_at == first


def test_the_running_server_writes_last_uses_by_itself(transactional_db: None, api: Any) -> None:
    notes.start()
    try:
        api.get("/entities")
        end = time.monotonic() + 30
        while ApiKey.objects.get().last_used_at is None:
            assert time.monotonic() < end, "the last use was never written"
            time.sleep(0.02)
    finally:
        notes.stop()


# --- Health --------------------------------------------------------------------------------------
def part(answer: Any) -> dict[str, Any]:
    return next(one for one in answer.json()["parts"] if one["name"] == "database")


@ON_SQLITE
def test_health_and_overview_say_that_the_database_is_locked_and_that_it_is_well_again(
    transactional_db: None, api: Any, signed_in: Client
) -> None:
    assert part(api.get("/healthz"))["state"] == "ok"
    connection.turns.wrote_at = float("-inf")
    health.writing.forget()
    with locked():
        answer = api.get("/healthz")
        assert answer.status_code == 503 and answer.json()["failing"] == ["database"]
        assert part(answer)["state"] == "locked"
        assert "another program" in part(answer)["problem"]
        page = signed_in.get("/dashboard").content.decode()
        assert "Locked" in page and "another program" in page
        # Without a credential, no more than that it is not well.
        assert api.client.get("/healthz").json().keys() <= {"ok", "qdrant", "failing"}
    health.writing.forget()
    assert api.get("/healthz").status_code == 200
    assert "Locked" not in signed_in.get("/dashboard").content.decode()


@ON_SQLITE
def test_asking_for_health_often_writes_seldom(
    transactional_db: None, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    tried = health._try_file
    monkeypatch.setattr(health, "_try_file", lambda: tries.append(1) or tried())
    for _ in range(50):
        assert api.client.get("/healthz").status_code == 200
    assert len(tries) <= 1


@ON_SQLITE
def test_a_database_that_is_read_only_is_said_to_be_so(
    transactional_db: None, api: Any, signed_in: Client
) -> None:
    id_ = api.add("Alice drinks tea")
    connection.turns.wrote_at = float("-inf")
    health.writing.forget()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA query_only = 1")
    try:
        assert part(api.get("/healthz"))["state"] == "read-only"
        assert "Read-only" in signed_in.get("/dashboard").content.decode()
        assert api.get(f"/memories/{id_}").status_code == 200
        answer = api.delete(f"/memories/{id_}")
        assert answer.status_code == 507 and "read-only" in answer.json()["detail"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA query_only = 0")
        health.writing.forget()


@ON_SQLITE
def test_a_database_that_was_opened_to_be_read_alone_is_said_to_be_so(
    transactional_db: None, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.writing.forget()
    connection.ensure_connection()
    monkeypatch.setitem(connection.settings_dict, "NAME", "file:/data/x.sqlite3?mode=ro")
    assert part(api.get("/healthz"))["state"] == "read-only"
    monkeypatch.undo()
    health.writing.forget()


@ON_SQLITE
def test_a_full_disk_is_said_to_be_one_and_reads_go_on(
    transactional_db: None, api: Any, signed_in: Client
) -> None:
    """SQLite is told that the file may not grow, which it refuses as it does on a full disk."""
    id_ = api.add("Alice drinks tea")
    with connection.cursor() as cursor:
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages}")
    try:
        answer = api.post(
            "/memories",
            {"messages": [{"role": "user", "content": "long " * 20_000}], "user_id": "alice"},
        )
        assert answer.status_code == 507
        assert "is full" in answer.json()["detail"] and "MB" in answer.json()["detail"]
        assert api.get(f"/memories/{id_}").status_code == 200
        assert signed_in.get("/dashboard/memories").status_code == 200
    finally:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA max_page_count = 1073741823")


@pytest.mark.skipif(settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"), reason="a server")
def test_a_lock_on_a_table_of_the_server_is_said_to_be_one(
    transactional_db: None, api: Any
) -> None:
    other = connection.copy()
    id_ = api.add("Alice drinks tea")
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE memories_memory IN EXCLUSIVE MODE")
        assert part(api.get("/healthz"))["state"] == "locked"
        assert api.get(f"/memories/{id_}").status_code == 200
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        answer = api.delete(f"/memories/{id_}")
        assert answer.status_code == 503 and answer.json()["code"] == "datastore_busy"
        assert answer["Retry-After"]
    finally:
        other.close()
        connection.close()
    assert api.delete(f"/memories/{id_}").status_code == 200


@pytest.mark.skipif(settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"), reason="a server")
def test_a_server_that_lets_a_role_read_alone_is_said_to_be_read_only(
    transactional_db: None, api: Any
) -> None:
    id_ = api.add("Alice drinks tea")
    health.writing.forget()
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        assert part(api.get("/healthz"))["state"] == "read-only"
        assert api.get(f"/memories/{id_}").status_code == 200
        assert api.delete(f"/memories/{id_}").status_code == 507
    finally:
        connection.close()
        health.writing.forget()
    assert part(api.get("/healthz"))["state"] == "ok"
    assert api.delete(f"/memories/{id_}").status_code == 200


@pytest.mark.skipif(connection.vendor == "sqlite", reason="a file is looked at before it is opened")
def test_code_older_than_the_servers_database_refuses_its_first_connection(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = MigrationRecorder.Migration.objects.create(app="memories", name="0099_later")
    monkeypatch.setattr(schema_version, "_checked", set())
    try:
        connection.close()
        with pytest.raises(ConfigurationError, match=r"memories\.0099_later"):
            connection.ensure_connection()
        assert connection.connection is None
    finally:
        schema_version._checked.add(connection.alias)
        later.delete()
