"""Every command of mem0-server's REST API reference, word for word but for host and key."""

from typing import Any

import pytest

from memories.models import Memory
from memories.tests.memserv import Memserv, curl

KEY = "0123456789abcdef" * 4  # openssl rand -hex 32

ADD = """curl -X POST https://mem0.your-domain.com/api/v1/memories \\
-H "Authorization: Bearer $MEM0_API_KEY" -H "Content-Type: application/json" \\
-d '{"content": "We host services on CapRover on DigitalOcean", "agent_id": "n8n-flow"}'"""
TRANSCRIPT = """curl -X POST https://mem0.your-domain.com/api/v1/memories \\
-H "Authorization: Bearer $MEM0_API_KEY" -H "Content-Type: application/json" \\
-d '{"messages": [{"role": "user", "content": "I prefer dark mode"}]}'"""
GOVERNED = """curl -X POST https://mem0.your-domain.com/api/v1/memories \\
-H "Authorization: Bearer $MEM0_API_KEY" -H "Content-Type: application/json" \\
-d '{"content": "Q3 OKRs are finalized", "agent_id": "claude-code",
"metadata": {"source": "user", "confidence": "high",
"review_status": "approved", "expires_at": "2099-10-01T00:00:00Z"}}'"""
SEARCH = """curl -X POST https://mem0.your-domain.com/api/v1/memories/search \\
-H "Authorization: Bearer $MEM0_API_KEY" -H "Content-Type: application/json" \\
-d '{"query": "where do we host things?"}'"""
RECENT = """curl -X POST https://mem0.your-domain.com/api/v1/memories/search \\
-H "Authorization: Bearer $MEM0_API_KEY" -H "Content-Type: application/json" \\
-d '{"query": "current deploy target", "recency_weight": 0.4}'"""
KEYWORD = """curl -X POST https://mem0.your-domain.com/api/v1/memories/search \\
-H "Authorization: Bearer $MEM0_API_KEY" -H "Content-Type: application/json" \\
-d '{"query": "Philips Hue", "mode": "keyword"}'"""
LIST = """curl https://mem0.your-domain.com/api/v1/memories?limit=20 \\
-H "Authorization: Bearer $MEM0_API_KEY" """
NEXT = """curl "https://mem0.your-domain.com/api/v1/memories?limit=20&offset=20" \\
-H "Authorization: Bearer $MEM0_API_KEY" """
IMPORTED = (
    'curl "https://mem0.your-domain.com/api/v1/memories?source=import:chatgpt'
    '&review_status=approved&exclude_expired=true" \\\n'
    '-H "Authorization: Bearer $MEM0_API_KEY" '
)
DRY_RUN = """curl -X POST https://mem0.your-domain.com/api/v1/memories/delete_bulk \\
-H "Authorization: Bearer $MEM0_API_KEY" -H "Content-Type: application/json" \\
-d '{"source": "import:chatgpt"}'"""
CONFIRM = """curl -X POST https://mem0.your-domain.com/api/v1/memories/delete_bulk \\
-H "Authorization: Bearer $MEM0_API_KEY" -H "Content-Type: application/json" \\
-d '{"source": "import:chatgpt", "confirm": true}'"""


@pytest.fixture(autouse=True)
def _configured(db: None, settings: Any, engine: Any) -> None:
    """As the guide configures it: one static token, one user."""
    settings.MEM0_API_KEY = KEY
    settings.MEM0_DEFAULT_USER_ID = "default-user"


@pytest.fixture
def run(client: Any) -> Any:
    def answer(command: str) -> Any:
        found = curl(client, command, KEY)
        assert found.status_code == 200, found.content
        return found.json()

    return answer


@pytest.fixture
def rest(client: Any) -> Memserv:
    return Memserv(client, KEY)


def test_a_text_is_stored_for_the_one_user(run: Any) -> None:
    [one] = run(ADD)["results"]
    assert one.keys() == {"id", "memory", "event"} and one["event"] == "ADD"
    row = Memory.objects.get(id=one["id"])
    assert (row.user_id, row.agent_id) == ("default-user", "n8n-flow")
    again = run(ADD)
    assert again == {"results": [], "deduplicated": True, "memory_id": one["id"]}


def test_a_conversation_is_stored(run: Any) -> None:
    [one] = run(TRANSCRIPT)["results"]
    assert one["memory"] == "I prefer dark mode"


def test_reserved_metadata_are_kept_and_filtered_by(run: Any, rest: Memserv) -> None:
    run(GOVERNED)
    [row] = rest.ok("GET", "?confidence=high&review_status=approved&source=user")["results"]
    assert row["agent_id"] == "claude-code"
    assert row["metadata"] == {
        "source": "user",
        "confidence": "high",
        "review_status": "approved",
        "expires_at": "2099-10-01T00:00:00Z",
    }


def test_it_is_found_by_asking(run: Any) -> None:
    run(ADD)
    [one] = run(SEARCH)["results"]
    assert one["memory"] == "We host services on CapRover on DigitalOcean"
    assert 0 <= one["score"] <= 1 and "rerank_score" not in one


def test_recency_can_be_blended_in(run: Any, rest: Memserv) -> None:
    rest.add("the deploy target is CapRover")
    rest.add("the current deploy target is Fly")
    found = run(RECENT)["results"]
    assert len(found) == 2
    assert [one["rerank_score"] for one in found] == sorted(
        (one["rerank_score"] for one in found), reverse=True
    )


def test_a_part_of_the_text_is_found(run: Any, rest: Memserv) -> None:
    rest.add("The PHILIPS HUE bridge stands in the hall")
    [one] = run(KEYWORD)["results"]
    assert one["memory"].startswith("The PHILIPS HUE") and "score" not in one
    assert [one["memory"] for one in rest.search("hil", mode="keyword")] == [
        "The PHILIPS HUE bridge stands in the hall"
    ]


def test_all_are_listed_page_by_page(run: Any, rest: Memserv) -> None:
    for n in range(25):
        rest.add(f"fact {n}")
    first, second = run(LIST), run(NEXT)
    assert first["pagination"] == {"limit": 20, "offset": 0, "has_more": True}
    assert second["pagination"] == {"limit": 20, "offset": 20, "has_more": False}
    ids = {one["id"] for one in first["results"] + second["results"]}
    assert len(ids) == 25


def test_lists_are_filtered_by_provenance(run: Any, rest: Memserv) -> None:
    def add(text: str, **metadata: str) -> None:
        rest.add(text, metadata={"source": "import:chatgpt", **metadata})

    add("approved", review_status="approved")
    add("approved, expired", review_status="approved", expires_at="2020-01-01T00:00:00Z")
    add("unreviewed")
    assert [one["memory"] for one in run(IMPORTED)["results"]] == ["approved"]


def test_a_bad_import_is_undone(run: Any, rest: Memserv) -> None:
    for n in range(12):
        rest.add(f"import {n}", metadata={"source": "import:chatgpt"})
    kept = rest.add("mine")
    dry = run(DRY_RUN)
    assert (dry["matched"], dry["deleted"]) == (12, 0)
    assert (dry["dry_run"], dry["has_more"]) == (True, False)
    assert [one.keys() for one in dry["sample"]] == [{"id", "memory"}] * 10
    assert len(rest.listed()) == 13
    done = run(CONFIRM)
    assert (done["matched"], done["deleted"]) == (12, 12)
    assert (done["dry_run"], done["has_more"]) == (False, False)
    assert [one["id"] for one in rest.ok("GET")["results"]] == [kept]


def test_get_put_delete_and_history_of_one(rest: Memserv) -> None:
    id_ = rest.add("old text")
    memory = rest.ok("GET", f"/{id_}")
    assert (memory["id"], memory["memory"], memory["user_id"]) == (id_, "old text", "default-user")
    changed = rest.ok("PUT", f"/{id_}", {"content": "new text"})
    assert changed == {"message": "Memory updated successfully!"}
    assert rest.ok("GET", f"/{id_}")["memory"] == "new text"
    assert rest.ok("DELETE", f"/{id_}") == {"deleted": True, "memory_id": id_}
    history = rest.ok("GET", f"/{id_}/history")
    assert list(history) == ["history"]
    assert [one["event"] for one in history["history"]] == ["ADD", "UPDATE", "DELETE"]
    for method, body in (("GET", None), ("PUT", {"content": "x"}), ("DELETE", None)):
        answer = rest(method, f"/{id_}", body)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Memory not found"})
