"""Logs: JSON lines with what helps, and never a key, a body or the text of a memory."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from django.conf import settings

from core.logs import JsonFormatter

pytestmark = pytest.mark.one_form

TEXT = "Alice hides the spare key under the old oak tree"
ADMIN_KEY = "an-admin-key-of-the-instance"


class Captured(io.StringIO):
    def lines(self, logger: str = "") -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.getvalue().splitlines()]
        return [line for line in found if not logger or line["logger"] == logger]


@pytest.fixture
def log() -> Iterator[Captured]:
    """Everything that is logged from here on, at the levels of the settings but DEBUG for the rest,
    as the service would write it."""
    captured = Captured()
    handler = logging.StreamHandler(captured)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield captured
    root.removeHandler(handler)
    root.setLevel(level)


def test_each_record_is_one_json_line_with_time_level_logger_and_message(log: Captured) -> None:
    logging.getLogger("some.part").warning(
        "two\nlines %s", "ü😀", extra={"memories": 5, "at": None}
    )
    [line] = log.lines()
    assert log.getvalue().count("\n") == 1
    assert list(line)[:4] == ["time", "level", "logger", "message"]
    assert (line["level"], line["logger"]) == ("warning", "some.part")
    assert line["message"] == "two\nlines ü😀"
    assert (line["memories"], line["at"]) == (5, None)
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None


def test_an_error_is_one_line_as_well_with_its_traceback_in_it(log: Captured) -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("some.part").exception("failed")
    [line] = log.lines()
    assert line["error"].startswith("Traceback") and "RuntimeError: broken" in line["error"]


def test_values_of_any_kind_can_be_logged(log: Captured) -> None:
    extra = {"path": object(), "set": {1}, "bytes": b"x", "huge": 10**30, "text": "a\ud800b"}
    for name, value in extra.items():
        logging.getLogger("some.part").warning("odd", extra={name: value})
    assert [line["message"] for line in log.lines()] == ["odd"] * len(extra)


def test_the_settings_write_logs_in_this_shape() -> None:
    assert settings.LOGGING["formatters"]["json"]["()"] == "core.logs.JsonFormatter"
    assert settings.LOGGING["root"]["handlers"] == ["stderr"]


def test_every_request_is_one_line_with_who_what_and_how_it_ended(
    log: Captured, api: Any, alice: Any
) -> None:
    answer = api.get("/memories?user_id=alice", headers={"X-Request-ID": "trace-1"})
    assert answer.status_code == 200
    [line] = log.lines("mem0dash.access")
    assert line["request_id"] == "trace-1"
    assert (line["method"], line["path"], line["status"]) == ("GET", "/memories", 200)
    assert line["ms"] >= 0
    assert line["account"] == str(alice.id)
    assert line["project"] == "default"
    assert len(line["key"]) == 12 and api.headers["X-API-Key"].startswith(line["key"])
    api.client.get("/memories", headers={"X-API-Key": "m0sk_" + "x" * 43})
    assert log.lines("mem0dash.access")[-1]["status"] == 401
    assert log.lines("mem0dash.access")[-1]["key"] == ""


def test_a_line_cannot_be_forged_from_outside(log: Captured, client: Any, db: None) -> None:
    client.get('/memories/x%0a{"level":"error","message":"forged"}', headers={"User-Agent": "a\nb"})
    assert len(log.getvalue().splitlines()) == len(log.lines("mem0dash.access")) == 1


def test_no_control_character_reaches_the_log_as_it_is(
    log: Captured, client: Any, db: None
) -> None:
    # NEL and LINE SEPARATOR end lines for some readers; CSI and ESC are commands to terminals.
    client.get("/memories/a%C2%85b%E2%80%A8c%C2%9B31md%7F%1B[0m")
    [line] = log.lines("mem0dash.access")
    assert line["path"] == "/memories/a\x85b\u2028c\x9b31md\x7f\x1b[0m"
    assert not [c for c in log.getvalue() if not c.isprintable() and c != "\n"]


def test_a_whole_day_of_requests_leaves_no_key_body_or_text_in_the_log(
    log: Captured, api: Any, as_key: Any, key: Any, embedder: Any, settings: Any
) -> None:
    settings.ADMIN_API_KEY = ADMIN_KEY
    api.client.raise_request_exception = False
    other = key("read")
    unknown = "m0sk_" + "y" * 43
    id_ = api.add(TEXT, metadata={"password": "cinnamon"})
    api.put(f"/memories/{id_}", {"text": f"{TEXT} indeed", "metadata": {"pin": "turmeric"}})
    api.get(f"/memories/{id_}")
    api.get(f"/memories/{id_}/history")
    api.get("/memories?user_id=alice&secret=saffron")
    api.search(TEXT, filters={"password": "cinnamon"})
    api.post("/search", {"query": TEXT, "filters": {"user_id": "alice", "n": {"bad": "cinnamon"}}})
    api.post("/memories", {"messages": TEXT, "user_id": ["cinnamon"]})
    for headers in (
        {"Authorization": f"Bearer {other}"},
        {"Authorization": f"Token {other}"},
        {"X-API-Key": unknown},
        {"Authorization": f"Bearer {ADMIN_KEY}"},
        {"Authorization": "Bearer a.cinnamon.c"},
        {"Authorization": "Basic Y2lubmFtb24="},
    ):
        as_key(None).get("/entities", headers=headers)
    embedder.error = RuntimeError("down")
    api.post("/memories", {"messages": [{"role": "user", "content": TEXT}], "user_id": "alice"})
    api.post("/search", {"query": f"where is it? {TEXT}", "user_id": "alice"})
    embedder.error = None
    api.delete(f"/memories/{id_}")
    written = log.getvalue()
    assert len(log.lines("mem0dash.access")) > 15
    for secret in (
        api.headers["X-API-Key"],
        other,
        other[12:],
        unknown,
        ADMIN_KEY,
        "Bearer",
        "Basic",
        "Authorization",
        TEXT,
        "spare key",
        "cinnamon",
        "turmeric",
        "saffron",
        "Y2lubmFtb24=",
    ):
        assert secret not in written, secret


def test_an_error_of_the_database_leaves_no_text_in_the_log(
    log: Captured, api: Any, transactional_db: None
) -> None:
    from django.db import connection

    api.client.raise_request_exception = False
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE memories_revision RENAME TO memories_revision_gone")
    try:
        body = {"messages": [{"role": "user", "content": TEXT}], "user_id": "alice"}
        answer = api.post("/memories", body)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE memories_revision_gone RENAME TO memories_revision")
    assert answer.status_code == 502
    assert answer.json()["code"] == "datastore_unavailable"
    assert any(line["level"] == "error" for line in log.lines())
    assert TEXT not in log.getvalue() and "spare key" not in log.getvalue()


def test_an_unforeseen_error_is_logged_with_its_traceback(
    log: Captured, client: Any, settings: Any, db: None
) -> None:
    settings.ROOT_URLCONF = "mem0dash.tests.test_middleware"
    client.raise_request_exception = False
    assert client.get("/broken", headers={"X-Request-ID": "trace-9"}).status_code == 500
    errors = [line for line in log.lines() if line["level"] in {"error", "critical"}]
    assert errors and "in broken" in errors[0]["error"]


def test_a_failing_embedder_is_logged_with_its_cause(
    log: Captured, api: Any, embedder: Any
) -> None:
    embedder.error = RuntimeError("the cause of it")
    api.post("/search", {"query": "tea", "user_id": "alice"})
    assert "the cause of it" in log.getvalue()
