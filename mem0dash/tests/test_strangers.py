"""Without a credential every route gives a small answer, reads no body and writes nothing."""

import asyncio
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from mem0dash.asgi import application
from mem0dash.tests.test_rights import TABLE

pytestmark = pytest.mark.one_form

SMALL = 64 * 1024
NO_ID = "00000000-0000-4000-8000-000000000000"
PATHS = sorted({right.path.partition("?")[0].format(id=NO_ID) for right in TABLE.values()})
METHODS = ("POST", "PUT", "PATCH", "DELETE")
# Documents for everybody.
DOCUMENTS = {"/openapi.json", "/docs"}


def drive(method: str, path: str) -> tuple[int, int, int]:
    """Status, bytes of the answer, and how often the body of 8 MB was read."""
    sent: list[Any] = []
    reads = 0

    async def receive() -> dict[str, Any]:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-length", b"8000000")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    asyncio.run(application(scope, receive, send))
    return sent[0]["status"], sum(len(m.get("body", b"")) for m in sent), reads


@pytest.mark.parametrize("path", [*PATHS, "/nowhere", "/dashboard/nowhere", "/static/none.js"])
def test_a_large_body_without_a_credential_is_not_read(path: str, settings: Any) -> None:
    # Counting failures takes a database, which this does without.
    settings.RATE_LIMIT_AUTH_FAILURES = 0
    for method in METHODS:
        status, size, reads = drive(method, path)
        assert status in {401, 404, 405, 413}, (method, status)
        assert size < SMALL
        assert reads == 0, method


def test_small_requests_without_a_credential_get_small_answers_and_write_nothing(
    transactional_db: None, alice: Any, engine: Any
) -> None:
    client = Client()
    for path in PATHS:
        for method in ("GET", *METHODS):
            with CaptureQueriesContext(connection) as queries:
                answer = client.generic(method, path, "{}", content_type="application/json")
            assert answer.status_code < 500, (method, path)
            if answer.status_code == 200 and path not in DOCUMENTS:
                assert len(answer.content) < SMALL, (method, path)
            written = [
                query["sql"]
                for query in queries
                if query["sql"].startswith(("INSERT", "UPDATE", "DELETE"))
                # What counts the attempts, so that they are bounded.
                and "accounts_attempt" not in query["sql"]
                # Signing out ends the session that there is none of.
                and "django_session" not in query["sql"]
            ]
            assert written == [], (method, path)
