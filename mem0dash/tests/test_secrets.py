"""A dump of the database and everything logged hold no secret in plain text."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from accounts import setup
from apikeys.services import KEY_PATTERN, digest_of
from core.logs import JsonFormatter
from operations import request_log

PASSWORD = "correct horse battery staple"


def dump() -> str:
    """Every row of every table, bytes included."""
    rows: list[str] = []
    with connection.cursor() as cursor:
        tables = sorted(connection.introspection.table_names(cursor))
        for table in tables:
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                plain = [bytes(v) if isinstance(v, memoryview) else v for v in row]
                rows.append(f"{table} {dict(zip(names, plain, strict=True))!r}")
    return "\n".join(rows)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """All that is logged, at every level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def test_keys_and_passwords_are_nowhere_in_the_database_or_the_log(
    engine: Any, as_key: Any, client: Any, settings: Any, written: io.StringIO
) -> None:
    settings.ADMIN_API_KEY = "an-admin-key-of-the-instance"
    out = io.StringIO()
    arguments = ("--email", "alice@example.org", "--password", PASSWORD, "--json")
    call_command("bootstrap", *arguments, stdout=out)
    first = json.loads(out.getvalue().splitlines()[-1])["api_key"]
    out = io.StringIO()
    call_command("create_api_key", "alice@example.org", "--label", "second", stdout=out)
    second = out.getvalue().split()[-1]
    call_command("reset_password", "alice@example.org", "--password", f"new {PASSWORD}", stdout=out)
    as_key(first).add("I drink tea")
    client.get("/entities", headers={"Authorization": f"Bearer {second}"})
    client.get("/entities", headers={"Authorization": f"Token {first}"})
    client.get("/entities", headers={"X-API-Key": settings.ADMIN_API_KEY})
    client.get("/entities", headers={"X-API-Key": second[:-1] + "A"})
    call_command("revoke_api_key", second[:12], stdout=out)
    client.get("/entities", headers={"X-API-Key": second})
    stored, logged = dump(), written.getvalue()
    assert "I drink tea" in stored
    assert digest_of(first) in stored
    for secret in (
        first,
        second,
        first[5:],
        first[12:-4],
        second[12:-4],
        PASSWORD,
        settings.ADMIN_API_KEY,
        settings.SECRET_KEY,
        settings.JWT_SECRET,
        settings.ENCRYPTION_KEYS[0],
    ):
        assert secret not in stored
        assert secret not in logged


def test_sessions_leave_no_token_and_no_password_behind(
    engine: Any, client: Any, settings: Any, written: io.StringIO, tmp_path: Path, gathering: None
) -> None:
    """From the first registration on, with every kind of failure, the request log included."""
    settings.DATA_DIR = tmp_path
    client.raise_request_exception = False
    setup_token = setup.offer_setup_token()
    assert setup_token is not None
    answers: list[Any] = []

    def post(path: str, body: Any, **headers: str) -> Any:
        answers.append(client.post(path, body, "application/json", headers=headers))
        return answers[-1]

    eve = {"name": "Eve", "email": "eve@example.org", "password": PASSWORD}
    post("/auth/register", {**eve, "setup_token": setup_token[:-1]})
    post("/auth/register", {"password": PASSWORD, "setup_token": setup_token})
    first = post("/auth/register", eve, **{"X-Setup-Token": setup_token}).json()
    login = post("/auth/login", {"email": eve["email"], "password": PASSWORD}).json()
    post("/auth/login", {"email": eve["email"], "password": f"wrong {PASSWORD}"})
    post("/auth/login", {"email": PASSWORD, "password": PASSWORD + " "})
    bearer = {"Authorization": f"Bearer {login['access_token']}"}
    key = post("/api-keys", {"label": "x"}, **bearer).json()["key"]
    second = post("/auth/refresh", {"refresh_token": first["refresh_token"]}).json()
    post("/auth/refresh", {"refresh_token": first["refresh_token"]})
    change = {"current_password": PASSWORD, "new_password": f"new {PASSWORD}"}
    client.get("/auth/me", headers={"X-API-Key": login["access_token"]})
    client.get(f"/auth/me?token={login['access_token']}", headers=bearer)
    post("/auth/change-password", {"current_password": PASSWORD}, **bearer)
    assert post("/auth/change-password", change, **bearer).status_code == 200
    post("/auth/change-password", change, **bearer)
    assert request_log.rows.write()
    stored, logged = dump(), written.getvalue()
    assert "/auth/refresh" in stored and "/auth/refresh" in logged
    tokens = [first, login, second]
    for secret in (
        PASSWORD,
        setup_token,
        setup_token[:-1],
        key,
        key[12:-4],
        settings.JWT_SECRET,
        *(made[f"{name}_token"] for made in tokens for name in ("access", "refresh")),
        *(made["access_token"].rsplit(".")[-1] for made in tokens),
    ):
        assert secret not in stored
        assert secret not in logged
    shown = [a.content.decode() for a in answers if a.status_code >= 400]
    assert len(shown) == 7
    for secret in (setup_token[:-1], settings.JWT_SECRET, login["access_token"], key):
        assert not [text for text in shown if secret in text]


def test_a_key_sent_in_the_wrong_place_is_not_kept_with_the_request(
    api: Any, written: io.StringIO
) -> None:
    """The client name is kept with each revision, the query with nothing."""
    made = api.headers["X-API-Key"]
    api.get(f"/memories?user_id=alice&api_key={made}")
    api.client.get("/entities", headers={"X-API-Key": f"Bearer {made}"})
    assert made not in written.getvalue()
    assert made not in dump()


def test_a_key_has_a_fixed_shape_that_scanners_can_look_for(api: Any) -> None:
    made = api.headers["X-API-Key"]
    assert KEY_PATTERN.pattern == "m0sk_[A-Za-z0-9_-]{43}"
    assert KEY_PATTERN.search(f"export KEY='{made}'")
    assert len(made) == 48


def test_no_answer_ever_holds_a_key_or_its_digest(api: Any) -> None:
    made = api.headers["X-API-Key"]
    id_ = api.add("tea")
    for path in (
        "/memories",
        "/memories?user_id=alice",
        f"/memories/{id_}",
        f"/memories/{id_}/history",
        "/entities",
        "/openapi.json",
        "/docs",
        "/healthz",
    ):
        answer = api.get(path)
        assert answer.status_code == 200
        for secret in (made, digest_of(made), made[:12]):
            assert secret not in answer.content.decode(), path
