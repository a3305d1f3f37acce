"""PUT and DELETE of the OSS dialect: one memory, all of an entity, an entity."""

import hashlib
from typing import Any
from uuid import uuid4

import pytest

from memories.models import Memory

YESTERDAY = "2020-01-01"
NOTHING_GIVEN = "At least one of text, metadata, or expiration_date must be provided."
NO_ID = "At least one identifier is required."


def live() -> int:
    return Memory.objects.filter(deleted_at=None).count()


def test_a_new_text_is_stored_found_and_answered_with_a_message(api: Any) -> None:
    id_ = api.add("I drink tea", metadata={"z": 1})
    answer = api.put(f"/memories/{id_}", {"text": "I drink espresso"})
    assert answer.status_code == 200
    assert answer.json() == {"message": "Memory updated successfully!"}
    memory = api.get(f"/memories/{id_}").json()
    assert memory["memory"] == "I drink espresso"
    assert memory["hash"] == hashlib.md5(b"I drink espresso").hexdigest()
    assert memory["metadata"] == {"z": 1}
    assert memory["updated_at"] > memory["created_at"]
    assert [m["id"] for m in api.search("espresso")] == [id_]
    assert api.search("tea", threshold=0.9) == []


def test_metadata_is_merged_key_by_key(api: Any) -> None:
    id_ = api.add("tea", metadata={"app_id": "proj", "a": 1, "deep": {"x": 1, "y": 2}})
    api.put(f"/memories/{id_}", {"metadata": {"z": 1, "a": 2, "deep": {"x": 3}}})
    assert api.get(f"/memories/{id_}").json()["metadata"] == {
        "app_id": "proj",
        "a": 2,
        "z": 1,
        "deep": {"x": 3},
    }
    assert api.get(f"/memories/{id_}").json()["memory"] == "tea"


def test_identity_keys_in_new_metadata_are_dropped(api: Any) -> None:
    id_ = api.add("tea")
    api.put(f"/memories/{id_}", {"metadata": {"user_id": "bob", "run_id": "r", "z": 1}})
    memory = api.get(f"/memories/{id_}").json()
    assert (memory["user_id"], memory["metadata"]) == ("alice", {"z": 1})


def test_new_provenance_in_the_metadata_is_promoted(api: Any, key: Any) -> None:
    id_ = api.add("tea")
    api.put(f"/memories/{id_}", {"metadata": {"confidence": "low", "review_status": "rejected"}})
    assert api.search("tea") == []
    assert [m["id"] for m in api.search("tea", filters={"review_status": "rejected"})] == [id_]
    api.headers = {"X-API-Key": key("read", "write")}
    for status in ("approved", "unreviewed"):
        api.put(f"/memories/{id_}", {"metadata": {"review_status": status}})
        assert Memory.objects.get(id=id_).review_status == "rejected"


def test_the_expiration_date_is_set_kept_and_cleared_by_null(api: Any) -> None:
    id_ = api.add("tea")
    assert api.put(f"/memories/{id_}", {"expiration_date": YESTERDAY}).status_code == 200
    assert api.get(f"/memories/{id_}").json()["expiration_date"] == YESTERDAY
    assert api.search("tea") == []
    api.put(f"/memories/{id_}", {"text": "green tea"})
    assert api.get(f"/memories/{id_}").json()["expiration_date"] == YESTERDAY
    assert api.put(f"/memories/{id_}", {"expiration_date": None}).status_code == 200
    assert "expiration_date" not in api.get(f"/memories/{id_}").json()
    assert [m["id"] for m in api.search("tea")] == [id_]


def test_an_update_that_names_nothing_is_refused(api: Any) -> None:
    id_ = api.add("tea")
    for body in ({}, {"text": None}, {"metadata": None}, {"user_id": "bob"}, {"limit": 1}):
        answer = api.put(f"/memories/{id_}", body)
        assert (answer.status_code, answer.json()) == (400, {"detail": NOTHING_GIVEN}), body
    assert len(api.get(f"/memories/{id_}/history").json()) == 1


def test_a_blank_text_or_a_bad_date_changes_nothing(api: Any) -> None:
    id_ = api.add("tea")
    for body in ({"text": ""}, {"text": " \n"}, {"text": "x", "expiration_date": "soon"}):
        assert api.put(f"/memories/{id_}", body).status_code == 400
    assert api.get(f"/memories/{id_}").json()["memory"] == "tea"
    assert len(api.get(f"/memories/{id_}/history").json()) == 1


def test_an_update_of_a_missing_memory_is_404_in_the_words_of_the_original(api: Any) -> None:
    deleted = api.add("tea")
    api.delete(f"/memories/{deleted}")
    for id_ in (str(uuid4()), "no-id", deleted):
        answer = api.put(f"/memories/{id_}", {"text": "x"})
        assert (answer.status_code, answer.json()) == (
            404,
            {"detail": f"Memory with id {id_} not found. Please provide a valid 'memory_id'"},
        )


def test_an_update_whose_embedding_fails_changes_nothing(api: Any, embedder: Any) -> None:
    id_ = api.add("tea")
    embedder.error = RuntimeError("down")
    assert api.put(f"/memories/{id_}", {"text": "coffee"}).status_code == 502
    assert api.put(f"/memories/{id_}", {"metadata": {"z": 1}}).status_code == 200
    memory = api.get(f"/memories/{id_}").json()
    assert (memory["memory"], memory["metadata"]) == ("tea", {"z": 1})


def test_a_deleted_memory_is_gone_everywhere_but_from_its_history(api: Any) -> None:
    id_ = api.add("tea")
    answer = api.delete(f"/memories/{id_}")
    assert answer.status_code == 200
    assert answer.json() == {"message": "Memory deleted successfully"}
    assert api.get(f"/memories/{id_}").json() is None
    assert api.get("/memories?user_id=alice").json() == {"results": []}
    assert api.get("/memories").json() == {"results": []}
    assert api.search("tea") == []
    assert api.get("/entities").json() == []
    assert [row["event"] for row in api.get(f"/memories/{id_}/history").json()] == [
        "ADD",
        "DELETE",
    ]


def test_deleting_what_is_not_there_is_404(api: Any) -> None:
    deleted = api.add("tea")
    api.delete(f"/memories/{deleted}")
    for id_ in (str(uuid4()), "no-id", deleted):
        answer = api.delete(f"/memories/{id_}")
        assert answer.status_code == 404
        assert answer.json() == {"detail": f"Memory with id {id_} not found"}


def test_all_memories_of_an_entity_are_deleted_and_nobody_elses(api: Any) -> None:
    for name, value in (("user_id", "alice"), ("agent_id", "bot"), ("run_id", "r1")):
        gone = api.add("tea", user_id="alice", agent_id="bot", run_id="r1")
        kept = api.add("coffee", user_id="bob", agent_id="other", run_id="r2")
        answer = api.delete(f"/memories?{name}={value}")
        assert answer.status_code == 200
        assert answer.json() == {"message": "All relevant memories deleted"}
        assert api.get(f"/memories/{gone}").json() is None
        assert api.get(f"/memories/{kept}").json()["memory"] == "coffee"
        assert [m["id"] for m in api.search("coffee tea", user_id="bob")] == [kept]
        api.delete(f"/memories/{kept}")


def test_deleting_by_several_ids_takes_only_what_all_of_them_match(api: Any) -> None:
    api.add("tea")
    api.add("coffee", agent_id="bot")
    assert api.delete("/memories?user_id=alice&agent_id=bot").status_code == 200
    assert [m["memory"] for m in api.get("/memories").json()["results"]] == ["tea"]


def test_rejected_and_expired_memories_are_deleted_with_the_rest(api: Any) -> None:
    api.add("bad", metadata={"review_status": "rejected"})
    api.add("old", expiration_date=YESTERDAY)
    api.delete("/memories?user_id=alice")
    assert live() == 0


def test_the_list_of_all_ends_after_a_thousand_and_a_delete_does_not(api: Any) -> None:
    messages = [{"role": "user", "content": f"fact {n}"} for n in range(1100)]
    for at in (0, 550):
        api.post("/memories", {"messages": messages[at : at + 550], "user_id": "alice"})
    api.add("kept", user_id="bob")
    assert len(api.get("/memories").json()["results"]) == 1000
    assert len(api.get("/memories?top_k=100000").json()["results"]) == 1101
    assert api.delete("/memories?user_id=alice").status_code == 200
    assert live() == 1


def test_a_delete_that_names_nobody_deletes_nothing(api: Any, project: Any) -> None:
    api.add("tea")
    project.default_user_id = "alice"
    project.save()
    for query in ("", "?"):
        answer = api.delete(f"/memories{query}")
        assert (answer.status_code, answer.json()) == (400, {"detail": NO_ID}), query
    for query in (
        "?filters={'user_id': 'alice'}",
        "?filters=[object Object]",
        '?filters={"user_id":"alice"}',
        "?userId=alice",
        "?USER_ID=alice",
        "?top_k=5",
        "?user_id[]=alice",
    ):
        answer = api.delete(f"/memories{query}")
        assert answer.status_code == 400, query
        assert "does not understand" in answer.json()["detail"], query
    for query in ("?user_id=", "?user_id=%20", "?user_id=al%20ice", "?user_id=a%00"):
        assert api.delete(f"/memories{query}").status_code == 400, query
    assert live() == 1


def test_wildcards_in_a_delete_are_plain_names(api: Any) -> None:
    api.add("tea")
    for value in ("*", "%25", "_____", "al%25", ".*"):
        assert api.delete(f"/memories?user_id={value}").status_code == 200
        assert api.delete(f"/entities/user/{value}").status_code == 200
    assert live() == 1


@pytest.mark.parametrize("kind", ["user", "agent", "run"])
def test_an_entity_is_deleted_with_its_memories(api: Any, kind: str) -> None:
    ids = {"user_id": "alice", "agent_id": "bot", "run_id": "r1"}
    gone = api.add("tea", **ids)
    kept = api.add("coffee", user_id="bob")
    answer = api.delete(f"/entities/{kind}/{ids[f'{kind}_id']}")
    assert (answer.status_code, answer.json()) == (200, {"message": "Entity deleted"})
    assert api.get(f"/memories/{gone}").json() is None
    assert api.get(f"/memories/{kept}").json() is not None
    assert [(e["type"], e["id"]) for e in api.get("/entities").json()] == [("user", "bob")]


def test_deleting_an_unknown_entity_is_200_as_well(api: Any) -> None:
    api.add("tea")
    for path in ("/entities/user/nobody", "/entities/run/alice", "/entities/agent/ü"):
        answer = api.delete(path)
        assert (answer.status_code, answer.json()) == (200, {"message": "Entity deleted"})
    assert live() == 1


def test_an_entity_with_a_slash_in_its_name_can_be_deleted(api: Any) -> None:
    api.add("tea", user_id="team/alice")
    assert api.delete("/entities/user/team/alice").status_code == 200
    assert live() == 0


def test_other_types_of_entities_are_422_and_nothing_is_deleted(api: Any) -> None:
    api.add("tea", app_id="proj")
    for kind in ("app", "users", "USER", "user_id", "*"):
        answer = api.delete(f"/entities/{kind}/alice")
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["path", "entity_type"]
    assert live() == 1
