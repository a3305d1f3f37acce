"""A dump of the database and everything logged hold no secret in plain text."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from apikeys.services import KEY_PATTERN, digest_of
from mem0dash.logs import JsonFormatter

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
        settings.ENCRYPTION_KEYS[0],
    ):
        assert secret not in stored
        assert secret not in logged


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
