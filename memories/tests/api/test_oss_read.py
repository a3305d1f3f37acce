"""GET of the OSS dialect: one memory, the list of an entity, the list of all, history, entities."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from memories.models import Memory

YESTERDAY = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def texts(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [memory["memory"] for memory in answer.json()["results"]]


def is_instant(value: str) -> bool:
    moment = datetime.fromisoformat(value)
    return value.endswith("+00:00") and moment.tzinfo is not None


def test_one_memory_has_the_fields_of_the_original_in_its_order(api: Any) -> None:
    id_ = api.add("I drink tea", metadata={"z": 1})
    answer = api.get(f"/memories/{id_}")
    shape = answer.json()
    assert answer.status_code == 200
    assert list(shape) == [
        "id",
        "memory",
        "hash",
        "metadata",
        "score",
        "created_at",
        "updated_at",
        "user_id",
        "role",
    ]
    assert shape["id"] == id_
    assert (shape["memory"], shape["hash"]) == ("I drink tea", md5("I drink tea"))
    assert (shape["metadata"], shape["score"]) == ({"z": 1}, None)
    assert is_instant(shape["created_at"]) and shape["created_at"] == shape["updated_at"]


def test_what_is_not_stored_has_no_field_and_what_is_stands_in_order(api: Any) -> None:
    id_ = api.add("tea", agent_id="bot", run_id="r1", expiration_date="2999-01-02")
    Memory.objects.filter(id=id_).update(actor_id="Al", attributed_to="user")
    shape = api.get(f"/memories/{id_}").json()
    assert list(shape)[7:] == [
        "user_id",
        "agent_id",
        "run_id",
        "actor_id",
        "role",
        "attributed_to",
        "expiration_date",
    ]
    assert shape["expiration_date"] == "2999-01-02"
    Memory.objects.filter(id=id_).update(actor_id="", attributed_to="", role="", user_id="")
    bare = api.get(f"/memories/{id_}").json()
    assert not {"user_id", "actor_id", "role", "attributed_to"} & bare.keys()


def test_a_missing_memory_is_200_and_null(api: Any) -> None:
    deleted = api.add("tea")
    api.delete(f"/memories/{deleted}")
    for id_ in (uuid4(), "no-id", "search", "history", "1", "null", deleted, "ü", "%20", "a%00b"):
        answer = api.get(f"/memories/{id_}")
        assert (answer.status_code, answer.content) == (200, b"null"), id_


def test_rejected_and_expired_memories_can_always_be_had_by_id(api: Any) -> None:
    rejected = api.add("tea", metadata={"review_status": "rejected"})
    expired = api.add("coffee", expiration_date=YESTERDAY)
    assert api.get(f"/memories/{rejected}").json()["memory"] == "tea"
    assert api.get(f"/memories/{expired}").json()["memory"] == "coffee"


def test_a_list_has_no_score_and_the_newest_first(api: Any) -> None:
    api.add("one")
    api.add("two")
    answer = api.get("/memories?user_id=alice")
    assert list(answer.json()) == ["results"]
    assert texts(answer) == ["two", "one"]
    assert list(answer.json()["results"][0]) == [
        "id",
        "memory",
        "hash",
        "metadata",
        "created_at",
        "updated_at",
        "user_id",
        "role",
    ]
    assert answer.json()["results"][0]["metadata"] is None


def test_a_list_holds_only_what_all_named_ids_match(api: Any) -> None:
    api.add("both", agent_id="bot", run_id="r1")
    api.add("alice alone")
    api.add("of bob", user_id="bob", agent_id="bot")
    assert texts(api.get("/memories?user_id=alice")) == ["alice alone", "both"]
    assert texts(api.get("/memories?agent_id=bot")) == ["of bob", "both"]
    assert texts(api.get("/memories?run_id=r1")) == ["both"]
    assert texts(api.get("/memories?user_id=alice&agent_id=bot")) == ["both"]
    assert texts(api.get("/memories?user_id=bob&run_id=r1")) == []
    assert texts(api.get("/memories?user_id=nobody")) == []


def test_the_list_of_an_entity_ends_after_twenty_unless_told_otherwise(api: Any) -> None:
    messages = [{"role": "user", "content": f"fact {n}"} for n in range(25)]
    api.post("/memories", {"messages": messages, "user_id": "alice"})
    assert len(texts(api.get("/memories?user_id=alice"))) == 20
    assert texts(api.get("/memories?user_id=alice&top_k=3")) == ["fact 24", "fact 23", "fact 22"]
    assert len(texts(api.get("/memories?user_id=alice&top_k=100000"))) == 25
    assert api.get("/memories?user_id=alice&top_k=0").status_code == 200


@pytest.mark.parametrize("top_k", ["100001", "-1", "x", "1.5", "", "9" * 30])
def test_a_top_k_out_of_range_is_422(as_key: Any, key: Any, top_k: str) -> None:
    for path in (f"/memories?user_id=alice&top_k={top_k}", f"/memories?top_k={top_k}"):
        answer = as_key(key()).get(path)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["query", "top_k"]


def test_what_expired_before_today_is_hidden_unless_asked_for(api: Any) -> None:
    api.add("expired", expiration_date=YESTERDAY)
    api.add("ends today", expiration_date=datetime.now(UTC).date().isoformat())
    api.add("expired by the minute", metadata={"expires_at": "2020-01-01T00:00:00Z"})
    assert texts(api.get("/memories?user_id=alice")) == ["ends today"]
    assert texts(api.get("/memories?user_id=alice&show_expired=false")) == ["ends today"]
    shown = texts(api.get("/memories?user_id=alice&show_expired=true"))
    assert sorted(shown) == ["ends today", "expired", "expired by the minute"]


def test_rejected_memories_are_not_listed(api: Any) -> None:
    api.add("bad", metadata={"review_status": "rejected"})
    api.add("stale", metadata={"review_status": "stale"})
    api.add("fresh")
    assert texts(api.get("/memories?user_id=alice")) == ["fresh", "stale"]
    assert texts(api.get("/memories")) == ["fresh", "stale"]


def test_a_project_may_hide_what_nobody_has_reviewed(api: Any, project: Any) -> None:
    api.add("fresh")
    api.add("approved", metadata={"review_status": "approved"})
    project.hide_unreviewed = True
    project.save()
    assert texts(api.get("/memories?user_id=alice")) == ["approved"]
    assert [m["memory"] for m in api.search("fresh approved")] == ["approved"]


def test_the_list_of_all_has_its_own_shape_with_every_field(api: Any) -> None:
    id_ = api.add("tea")
    full = api.add("all", agent_id="bot", run_id="r", expiration_date="2999-01-01", app_id="proj")
    answer = api.get("/memories")
    assert list(answer.json()) == ["results"]
    first, second = answer.json()["results"]
    assert [first["id"], second["id"]] == [full, id_]
    keys = ["id", "memory", "user_id", "agent_id", "run_id", "hash"]
    keys += ["expiration_date", "metadata", "created_at", "updated_at"]
    assert list(first) == list(second) == keys
    for name in ("agent_id", "run_id", "expiration_date"):
        assert second[name] is None
    assert (second["metadata"], second["hash"]) == ({}, md5("tea"))
    assert (first["user_id"], first["agent_id"], first["run_id"]) == ("alice", "bot", "r")
    assert first["expiration_date"] == "2999-01-01"
    assert first["metadata"] == {"app_id": "proj"}
    assert is_instant(first["created_at"])


def test_the_list_of_all_holds_everybodys_memories_expired_ones_included(api: Any) -> None:
    api.add("of alice")
    api.add("of bob", user_id="bob")
    api.add("expired", user_id="carol", expiration_date=YESTERDAY)
    assert texts(api.get("/memories")) == ["expired", "of bob", "of alice"]
    assert texts(api.get("/memories?top_k=1")) == ["expired"]


def test_a_list_without_ids_is_the_default_users_where_the_project_has_one(
    api: Any, project: Any
) -> None:
    api.add("of alice")
    api.add("of the house", user_id="house")
    project.default_user_id = "house"
    project.save()
    assert texts(api.get("/memories?top_k=20")) == ["of the house"]
    assert "score" not in api.get("/memories").json()["results"][0]


@pytest.mark.parametrize("name", ["user_id", "agent_id", "run_id"])
def test_ids_in_the_query_are_checked_as_in_a_body(as_key: Any, key: Any, name: str) -> None:
    api = as_key(key())
    spaced = api.get(f"/memories?{name}=al%20ice")
    assert (spaced.status_code, spaced.json()) == (
        400,
        {
            "detail": f"Invalid {name}: cannot contain whitespace. "
            "Provide a valid identifier without spaces."
        },
    )
    for value in ("", "%20", "x" * 256, "a%00b"):
        answer = api.get(f"/memories?{name}={value}")
        assert answer.status_code == 400, value
        assert isinstance(answer.json()["detail"], str)


def test_the_history_tells_add_update_and_delete_oldest_first(api: Any) -> None:
    id_ = api.add("tea")
    api.put(f"/memories/{id_}", {"text": "coffee"})
    api.put(f"/memories/{id_}", {"metadata": {"z": 1}})
    api.delete(f"/memories/{id_}")
    answer = api.get(f"/memories/{id_}/history")
    rows = answer.json()
    assert answer.status_code == 200
    assert [(r["event"], r["old_memory"], r["new_memory"], r["is_deleted"]) for r in rows] == [
        ("ADD", None, "tea", False),
        ("UPDATE", "tea", "coffee", False),
        ("UPDATE", "coffee", "coffee", False),
        ("DELETE", "coffee", None, True),
    ]
    for row in rows:
        assert list(row) == [
            "id",
            "memory_id",
            "old_memory",
            "new_memory",
            "event",
            "created_at",
            "updated_at",
            "is_deleted",
            "actor_id",
            "role",
        ]
        assert row["memory_id"] == id_
        assert row["created_at"] == rows[0]["created_at"]
    assert rows[0]["updated_at"] is None
    assert all(is_instant(row["updated_at"]) for row in rows[1:])
    assert len({row["id"] for row in rows}) == 4


def test_the_history_of_an_unknown_memory_is_an_empty_list(api: Any) -> None:
    for id_ in (uuid4(), "no-id", "a%00b", "ü"):
        answer = api.get(f"/memories/{id_}/history")
        assert (answer.status_code, answer.json()) == (200, [])


def test_entities_are_a_bare_list_sorted_by_type_and_id(api: Any) -> None:
    first = api.get(f"/memories/{api.add('one', user_id='bob', app_id='proj')}").json()
    last = api.get(f"/memories/{api.add('two', user_id='bob', agent_id='bot')}").json()
    api.add("three", run_id="r1")
    answer = api.get("/entities")
    assert answer.status_code == 200
    found = answer.json()
    assert [(e["type"], e["id"], e["total_memories"]) for e in found] == [
        ("agent", "bot", 1),
        ("run", "r1", 1),
        ("user", "alice", 1),
        ("user", "bob", 2),
    ]
    assert list(found[0]) == ["id", "type", "total_memories", "created_at", "updated_at"]
    assert found[3]["created_at"] == first["created_at"]
    assert found[3]["updated_at"] == last["updated_at"]


def test_without_memories_there_are_no_entities(api: Any) -> None:
    assert api.get("/entities").json() == []
    api.delete(f"/memories/{api.add('tea')}")
    assert api.get("/entities").json() == []


def test_imported_memories_keep_the_time_they_bring(api: Any) -> None:
    id_ = api.add("tea", metadata={"created_at": "2024-05-06T07:08:09Z"})
    assert api.get(f"/memories/{id_}").json()["created_at"] == "2024-05-06T07:08:09+00:00"
