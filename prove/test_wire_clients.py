"""The first steps, typed into a shell: curl against a fresh server."""

import json
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from prove.conftest import need_program
from prove.server import Server


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Curl = Callable[..., Reply]


@pytest.fixture
def curl(empty_server: Server) -> Curl:
    """`curl("/path", "-X", "PUT", …)`, with the key unless `key=False`."""
    program = need_program("curl", "curl")

    def run(path: str, *arguments: str, key: bool = True, stdin: str = "") -> Reply:
        credential = ["-H", f"X-API-Key: {empty_server.key}"] if key else []
        command = [program, "-sS", "-i", "--noproxy", "*", *credential, *arguments]
        done = subprocess.run(
            [*command, empty_server.url + path],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        # Universal newlines have made \r\n to \n; interim 100 answers come first.
        rest = done.stdout
        while True:
            head, _, rest = rest.partition("\n\n")
            status, *lines = head.splitlines()
            if status.split()[1] != "100":
                break
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return Reply(int(status.split()[1]), headers, rest)

    return run


def test_a_memory_is_stored_found_changed_and_deleted_with_curl(model: str, curl: Curl) -> None:
    body = '{"messages": [{"role": "user", "content": "I am allergic to peanuts"}],'
    added = curl("/memories", "-d", f'{body} "user_id": "alice"}}')
    assert added.status == 200
    [memory] = added.json["results"]
    assert (memory["memory"], memory["event"]) == ("I am allergic to peanuts", "ADD")
    path = f"/memories/{memory['id']}"

    query = '{"query": "which food is dangerous for her?", "filters": {"user_id": "alice"}}'
    found = curl("/search", "-d", query).json["results"]
    assert [hit["id"] for hit in found] == [memory["id"]]
    assert [row["id"] for row in curl("/memories?user_id=alice").json["results"]] == [memory["id"]]
    assert curl(path).json["user_id"] == "alice"

    changed = curl(path, "-X", "PUT", "-d", '{"text": "I am allergic to nuts"}')
    assert changed.json == {"message": "Memory updated successfully!"}
    assert curl(path).json["memory"] == "I am allergic to nuts"
    assert curl("/entities").json[0]["id"] == "alice"

    deleted = curl(path, "-X", "DELETE")
    assert deleted.json == {"message": "Memory deleted successfully"}
    assert (curl(path).status, curl(path).json) == (200, None)
    assert curl("/memories?user_id=alice").json == {"results": []}
    events = [entry["event"] for entry in curl(f"{path}/history").json]
    assert events == ["ADD", "UPDATE", "DELETE"]
    assert curl(path, "-X", "DELETE").status == 404


@pytest.mark.parametrize(
    "scheme", ["X-API-Key: {}", "Authorization: Token {}", "Authorization: Bearer {}"]
)
def test_each_of_the_three_headers_carries_the_key(
    empty_server: Server, curl: Curl, scheme: str
) -> None:
    answer = curl("/memories?user_id=alice", "-H", scheme.format(empty_server.key), key=False)
    assert (answer.status, answer.json) == (200, {"results": []})


def test_without_a_key_nothing_but_health_and_documentation_is_open(curl: Curl) -> None:
    health = curl("/healthz", key=False)
    assert (health.status, health.json["ok"]) == (200, True)
    root = curl("/", key=False)
    assert (root.status, root.headers["location"]) == (307, "/docs")
    assert curl("/docs", key=False).status == 200
    paths = curl("/openapi.json", key=False).json["paths"]
    assert {"/memories", "/memories/{memory_id}", "/search", "/entities"} <= set(paths)

    refused = curl("/memories?user_id=alice", key=False)
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json == {
        "detail": "Authentication required. Provide a Bearer token or X-API-Key header."
    }
    assert curl("/memories", "-H", "X-API-Key: wrong", key=False).status == 401


def test_what_is_wrong_is_said_in_the_originals_shapes(curl: Curl) -> None:
    missing = curl("/memories", "-d", '{"user_id": "alice"}')
    assert missing.status == 422
    [problem] = missing.json["detail"]
    assert (problem["type"], problem["loc"]) == ("missing", ["body", "messages"])
    nobody = curl("/memories", "-d", '{"messages": [{"role": "user", "content": "x"}]}')
    assert (nobody.status, nobody.json["detail"]) == (
        400,
        "At least one identifier (user_id, agent_id, run_id) is required.",
    )
    assert curl("/memories", "-X", "DELETE").status == 400
    assert curl("/memories/?user_id=alice").status == 307
    assert curl("/memories", "-X", "PATCH").json == {"detail": "Method Not Allowed"}
    assert curl("/nowhere").json == {"detail": "Not Found"}


def test_bodies_are_taken_in_chunks_and_refused_when_they_are_too_large(curl: Curl) -> None:
    message = {"role": "user", "content": "word " * 400}
    body = json.dumps({"messages": [message] * 20, "user_id": "alice"})
    chunked = ("-H", "Transfer-Encoding: chunked", "--data-binary", "@-")
    assert len(curl("/memories", *chunked, stdin=body).json["results"]) == 20
    expecting = ("-H", "Expect: 100-continue", "--data-binary", "@-")
    assert curl("/memories", *expecting, stdin=body).status == 200
    large = json.dumps({"messages": [{"role": "user", "content": "x" * 9 * 2**20}]})
    for arguments in (chunked, expecting):
        assert curl("/memories", *arguments, stdin=large).status == 413
