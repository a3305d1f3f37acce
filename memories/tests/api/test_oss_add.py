"""POST /memories of the OSS dialect: what is stored, what is answered, what is refused."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest

from memories.models import AddInput, Memory, Revision

NO_ID = "At least one identifier (user_id, agent_id, run_id) is required."


def said(*texts: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text} for text in texts]


def test_each_message_becomes_one_memory_word_for_word_in_order(api: Any) -> None:
    answer = api.post(
        "/memories",
        {
            "messages": [*said("I drink tea"), *said("Noted.", role="assistant"), *said("Black.")],
            "user_id": "alice",
            "infer": False,
        },
    )
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert list(answer.json()) == ["results"]
    assert [(r["memory"], r["role"]) for r in results] == [
        ("I drink tea", "user"),
        ("Noted.", "assistant"),
        ("Black.", "user"),
    ]
    for result in results:
        assert list(result) == ["id", "memory", "event", "actor_id", "role"]
        assert (result["event"], result["actor_id"]) == ("ADD", None)
        assert str(UUID(result["id"])) == result["id"]
    listed = api.get("/memories?user_id=alice").json()["results"]
    assert [m["memory"] for m in listed] == ["Black.", "Noted.", "I drink tea"]


def test_without_an_llm_the_answer_says_that_it_stored_verbatim(api: Any) -> None:
    for infer in ({}, {"infer": None}, {"infer": True}, {"infer": False}):
        answer = api.post("/memories", {"messages": said("tea"), "user_id": "alice", **infer})
        assert answer.status_code == 200
        assert answer["X-Mem0dash-Stored"] == "verbatim"
        assert [r["memory"] for r in answer.json()["results"]] == ["tea"]


def test_system_messages_are_skipped(api: Any) -> None:
    messages = [*said("You are terse.", role="system"), *said("I drink tea")]
    answer = api.post("/memories", {"messages": messages, "user_id": "alice"})
    assert [r["memory"] for r in answer.json()["results"]] == ["I drink tea"]
    only = api.post("/memories", {"messages": said("x", role="system"), "user_id": "alice"})
    assert (only.status_code, only.json()) == (200, {"results": []})


def test_an_empty_list_of_messages_is_accepted_and_stores_nothing(api: Any) -> None:
    answer = api.post("/memories", {"messages": [], "user_id": "alice"})
    assert (answer.status_code, answer.json()) == (200, {"results": []})
    assert not Memory.objects.exists()


def test_without_an_identifier_nothing_is_stored(api: Any) -> None:
    for body in (
        {"messages": said("tea")},
        {"messages": []},
        {"messages": said("tea"), "user_id": None, "agent_id": None},
        {"messages": said("tea"), "metadata": {"user_id": "alice"}},
    ):
        answer = api.post("/memories", body)
        assert (answer.status_code, answer.json()) == (400, {"detail": NO_ID}), body
    assert not Memory.objects.exists()


def test_an_app_in_the_metadata_alone_is_no_identifier(api: Any) -> None:
    answer = api.post("/memories", {"messages": said("tea"), "metadata": {"app_id": "proj"}})
    assert (answer.status_code, answer.json()) == (400, {"detail": NO_ID})


def test_each_kind_of_identifier_is_enough(api: Any) -> None:
    for name in ("user_id", "agent_id", "run_id"):
        answer = api.post("/memories", {"messages": said("tea"), name: "alice"})
        assert answer.status_code == 200, name
        memory = api.get(f"/memories/{answer.json()['results'][0]['id']}").json()
        assert memory[name] == "alice"


def test_an_identifier_with_white_space_inside_is_refused_in_the_words_of_the_original(
    api: Any,
) -> None:
    for name in ("user_id", "agent_id", "run_id"):
        for value in ("al ice", "al\tice", "al\nice", "al\u00a0ice", "al\u3000ice"):
            answer = api.post("/memories", {"messages": said("tea"), name: value})
            assert answer.status_code == 400
            assert answer.json() == {
                "detail": f"Invalid {name}: cannot contain whitespace. "
                "Provide a valid identifier without spaces."
            }
    assert not Memory.objects.exists()


def test_white_space_around_an_identifier_falls_away(api: Any) -> None:
    api.post("/memories", {"messages": said("tea"), "user_id": "  alice\n"})
    assert len(api.get("/memories?user_id=alice").json()["results"]) == 1


def test_the_default_user_of_the_project_is_used_where_nobody_is_named(
    api: Any, project: Any
) -> None:
    project.default_user_id = "house"
    project.save()
    for body in ({"messages": said("tea")}, {"messages": said("t"), "metadata": {"app_id": "p"}}):
        answer = api.post("/memories", body)
        assert answer.status_code == 200
        memory = api.get(f"/memories/{answer.json()['results'][0]['id']}").json()
        assert memory["user_id"] == "house"
    named = api.post("/memories", {"messages": said("tea"), "agent_id": "bot"}).json()["results"]
    assert "user_id" not in api.get(f"/memories/{named[0]['id']}").json()


def test_identity_keys_in_the_metadata_are_dropped(api: Any) -> None:
    foreign = {"user_id": "bob", "agent_id": "b", "run_id": "r", "actor_id": "x"}
    stored = api.get(f"/memories/{api.add('tea', metadata={**foreign, 'z': 1})}").json()
    assert stored["metadata"] == {"z": 1}
    assert stored["user_id"] == "alice"
    assert not {"agent_id", "run_id", "actor_id"} & stored.keys()
    assert api.get("/memories?user_id=bob").json() == {"results": []}


def test_metadata_is_echoed_unchanged(api: Any) -> None:
    metadata = {
        "text": "ümlaut 😀",
        "number": 1.5,
        "whole": 7,
        "yes": True,
        "nothing": None,
        "list": [1, "two", [3]],
        "nested": {"a": {"b": []}},
        "confidence": 0.7,
        "source": "cli",
    }
    id_ = api.add("tea", metadata=metadata)
    assert api.get(f"/memories/{id_}").json()["metadata"] == metadata
    assert api.get("/memories?user_id=alice").json()["results"][0]["metadata"] == metadata
    assert api.search("tea")[0]["metadata"] == metadata


def test_no_metadata_is_null(api: Any) -> None:
    for sent in ({}, {"metadata": None}, {"metadata": {}}):
        assert api.get(f"/memories/{api.add('tea', **sent)}").json()["metadata"] is None


def test_an_app_in_the_metadata_is_adopted_and_shown_where_it_was_sent(api: Any) -> None:
    id_ = api.add("tea", metadata={"app_id": "proj", "z": 1})
    assert api.get(f"/memories/{id_}").json()["metadata"] == {"app_id": "proj", "z": 1}
    assert Memory.objects.get(id=id_).app_id == "proj"
    assert [m["id"] for m in api.search("tea", filters={"app_id": "proj"})] == [id_]


def test_an_app_at_the_top_level_is_stored_and_shown_in_the_metadata(api: Any) -> None:
    id_ = api.add("tea", app_id="proj")
    shown = api.get(f"/memories/{id_}").json()
    assert shown["metadata"] == {"app_id": "proj"}
    assert "app_id" not in shown
    assert [m["id"] for m in api.search("tea", filters={"app_id": "proj"})] == [id_]


def test_an_app_in_the_metadata_that_is_no_identifier_stays_plain_metadata(api: Any) -> None:
    for value in ("my app", "", 5, None, ["a"], "x" * 300):
        id_ = api.add("tea", metadata={"app_id": value})
        assert api.get(f"/memories/{id_}").json()["metadata"] == {"app_id": value}
        assert Memory.objects.get(id=id_).app_id == ""


def test_the_expiration_date_is_a_day(api: Any) -> None:
    day = (date.today() + timedelta(days=9)).isoformat()
    id_ = api.add("tea", expiration_date=day)
    assert api.get(f"/memories/{id_}").json()["expiration_date"] == day
    far = api.add("for ever", expiration_date="9999-12-31")
    assert api.get(f"/memories/{far}").json()["expiration_date"] == "9999-12-31"
    assert [m["id"] for m in api.search("ever")] == [far]


@pytest.mark.parametrize("value", ["tomorrow", "", "2026-13-01", "2026-02-30", "01.02.2026"])
def test_a_bad_expiration_date_is_refused_in_the_words_of_the_original(
    as_key: Any, key: Any, value: str
) -> None:
    body = {"messages": said("tea"), "user_id": "alice", "expiration_date": value}
    answer = as_key(key()).post("/memories", body)
    assert answer.status_code == 400
    assert answer.json() == {"detail": "expiration_date must be a valid date in YYYY-MM-DD format."}


def test_only_the_procedural_memory_type_is_known(api: Any) -> None:
    body = {"messages": said("tea"), "user_id": "alice", "agent_id": "bot"}
    answer = api.post("/memories", {**body, "memory_type": "semantic_memory"})
    assert answer.status_code == 400
    assert answer.json() == {
        "detail": "Invalid 'memory_type'. "
        "Please pass procedural_memory to create procedural memories."
    }
    assert api.post("/memories", {**body, "memory_type": "procedural_memory"}).status_code == 200


def test_unknown_fields_are_ignored(api: Any) -> None:
    answer = api.post(
        "/memories",
        {"messages": [{**said("tea")[0], "mood": "calm"}], "user_id": "alice", "limit": 5, "x": {}},
    )
    assert answer.status_code == 200
    assert api.get("/memories?user_id=alice").json()["results"][0]["metadata"] is None


def test_a_blank_turn_is_passed_over_and_nothing_but_blank_ones_is_refused(api: Any) -> None:
    for blank in ("", "   ", "\n\t", None, []):
        messages = [*said("tea"), {"role": "assistant", "content": blank}]
        answer = api.post("/memories", {"messages": messages, "user_id": "alice"})
        assert [one["memory"] for one in answer.json()["results"]] == ["tea"]
        answer = api.post("/memories", {"messages": messages[1:], "user_id": "alice"})
        assert answer.status_code == 400
        assert "there is no text" in answer.json()["detail"]
    assert set(Memory.objects.values_list("text", flat=True)) == {"tea"}


def test_valid_provenance_is_promoted_and_found_by_filter(api: Any) -> None:
    metadata = {
        "source": "import:obsidian",
        "confidence": "high",
        "expires_at": "2999-01-01T00:00:00Z",
    }
    id_ = api.add("tea", metadata=metadata)
    row = Memory.objects.get(id=id_)
    assert (row.source, row.confidence) == ("import:obsidian", "high")
    assert row.expires_at is not None and row.expires_at.year == 2999
    for name in ("source", "confidence"):
        found = api.search("tea", filters={name: metadata[name]})
        assert [m["id"] for m in found] == [id_], name


def test_invalid_provenance_stays_metadata(api: Any) -> None:
    sent: list[dict[str, Any]] = [
        {"confidence": 0.7},
        {"confidence": "certain"},
        {"confidence": ["high"]},
        {"source": 5},
        {"source": "x" * 101},
        {"review_status": "great"},
        {"review_status": {"a": 1}},
    ]
    for metadata in sent:
        id_ = api.add("tea", metadata=metadata)
        assert api.get(f"/memories/{id_}").json()["metadata"] == metadata
        row = Memory.objects.get(id=id_)
        assert (row.source, row.confidence, row.expires_at) == ("", "unknown", None)
        assert row.review_status == "unreviewed"
    assert len(api.search("tea", filters={"confidence": 0.7})) == 1


def test_a_review_status_counts_only_from_a_caller_who_may_review(api: Any, key: Any) -> None:
    metadata = {
        "review_status": "approved",
        "reviewed_by": "carol",
        "reviewed_at": "2026-01-02T03:04:05+00:00",
    }
    approved = api.add("tea", metadata=metadata)
    row = Memory.objects.get(id=approved)
    assert (row.review_status, row.reviewed_by) == ("approved", "carol")
    assert row.reviewed_at is not None and row.reviewed_at.isoformat() == metadata["reviewed_at"]
    api.headers = {"X-API-Key": key("read", "write")}
    claimed = api.add("coffee", metadata=metadata)
    row = Memory.objects.get(id=claimed)
    assert (row.review_status, row.reviewed_by, row.reviewed_at) == ("unreviewed", "", None)
    assert api.get(f"/memories/{claimed}").json()["metadata"] == metadata


def test_an_add_writes_its_history_with_who_and_by_what_request(api: Any, alice: Any) -> None:
    headers = {"X-Request-ID": "trace-1", "X-Mem0-Client": "my-agent/1.0"}
    body = {"messages": said("tea"), "user_id": "alice"}
    id_ = api.post("/memories", body, headers=headers).json()["results"][0]["id"]
    row = Revision.objects.get(memory_id=id_)
    assert (row.event, row.account_id, row.via) == ("ADD", alice.id, "api_key")
    assert (row.request_id, row.client) == ("trace-1", "my-agent/1.0")
    assert api.headers["X-API-Key"].startswith(row.key_prefix)


def test_a_failed_add_stores_nothing_and_keeps_the_input_with_the_reason(
    api: Any, embedder: Any
) -> None:
    embedder.error = RuntimeError("down")
    assert api.post("/memories", {"messages": said("tea"), "user_id": "alice"}).status_code == 502
    assert not Memory.objects.exists()
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.messages) == ("failed", said("tea"))
    assert kept.reason
