"""What is outside of one's reach does not exist: other projects, other entities, lost rights."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from accounts.sessions import open_session
from apikeys.models import ApiKey
from memories.models import Memory
from operations.models import RequestLog

KEY_TEXT = "I keep the spare key under the oak"
ADMIN_KEY = "an-admin-key-of-the-instance"


@pytest.fixture
def foreign(api: Any, as_key: Any, key: Any, charlie: Account, other_project: Project) -> Any:
    """Charlie's client in the other project, with every right there."""
    return as_key(key(owner=charlie, project=other_project))


def replies(api: Any, id_: str) -> list[tuple[int, str]]:
    """How every route that takes an id answers to this one, with the id taken out."""
    answers = [
        api.get(f"/memories/{id_}"),
        api.put(f"/memories/{id_}", {"text": "taken over"}),
        api.put(f"/memories/{id_}", {"metadata": {"a": 1}}),
        api.delete(f"/memories/{id_}"),
        api.get(f"/memories/{id_}/history"),
        api.post("/search", {"query": KEY_TEXT, "filters": {"user_id": "alice", "id": id_}}),
        api.post("/search", {"query": KEY_TEXT, "filters": {"user_id": "*"}, "threshold": 0}),
    ]
    return [(a.status_code, a.content.decode().replace(id_, "ID")) for a in answers]


def test_a_foreign_memory_is_answered_exactly_as_one_that_never_was(api: Any, foreign: Any) -> None:
    id_ = api.add(KEY_TEXT)
    assert replies(foreign, id_) == replies(foreign, str(uuid4()))
    assert api.get(f"/memories/{id_}").json()["memory"] == KEY_TEXT
    assert Memory.objects.get(id=id_).rev == 1
    api.delete(f"/memories/{id_}")
    assert foreign.get(f"/memories/{id_}/history").json() == []


def test_naming_the_entities_of_another_project_finds_nothing(api: Any, foreign: Any) -> None:
    api.add(KEY_TEXT, agent_id="bot", run_id="r1", app_id="proj", metadata={"tag": "x"})
    for ids in ({"user_id": "alice"}, {"agent_id": "bot"}, {"run_id": "r1"}, {"app_id": "proj"}):
        query = "&".join(f"{name}={value}" for name, value in ids.items())
        assert foreign.get(f"/memories?{query}").json() == {"results": []}, ids
        for body in (ids, {"filters": ids}, {"filters": {"OR": [ids, {"tag": "x"}]}}):
            body = {"query": KEY_TEXT, "threshold": 0, "show_expired": True, **body}
            if set(body) & {"user_id", "agent_id", "run_id", "filters"}:
                assert foreign.post("/search", body).json() == {"results": []}, body
    assert foreign.get("/memories").json() == {"results": []}
    assert foreign.get("/entities").json() == []


def test_deleting_the_entities_of_another_project_deletes_nothing(api: Any, foreign: Any) -> None:
    api.add(KEY_TEXT, agent_id="bot", run_id="r1")
    for path in (
        "/memories?user_id=alice",
        "/memories?agent_id=bot",
        "/memories?run_id=r1",
        "/entities/user/alice",
        "/entities/agent/bot",
        "/entities/run/r1",
    ):
        assert foreign.delete(path).status_code == 200
    assert Memory.objects.filter(deleted_at=None).count() == 1


def test_an_entity_of_the_same_name_in_two_projects_is_two_entities(api: Any, foreign: Any) -> None:
    api.add("tea of one")
    foreign.add("tea of the other")
    assert [m["memory"] for m in api.search("tea", threshold=0)] == ["tea of one"]
    assert [m["memory"] for m in foreign.search("tea", threshold=0)] == ["tea of the other"]
    assert [e["total_memories"] for e in foreign.get("/entities").json()] == [1]


def test_neighbours_of_another_project_lend_no_score(api: Any, foreign: Any) -> None:
    """The same run id in two projects is two conversations."""
    foreign.add("tea in the morning", run_id="r1")
    [alone] = foreign.search("tea in the morning", run_id="r1")
    for n in range(5):
        api.add(f"tea in the morning {n}", run_id="r1")
    [again] = foreign.search("tea in the morning", run_id="r1")
    assert again["score"] == pytest.approx(alone["score"], abs=0.15)
    assert again["id"] == alone["id"]


def test_a_demoted_owner_loses_the_right_on_the_next_request(
    api: Any, as_key: Any, key: Any, bob: Account
) -> None:
    membership = Membership.objects.get(account=bob)
    Membership.objects.filter(pk=membership.pk).update(role=Role.ADMIN)
    his = as_key(key(owner=bob))
    assert his.get("/memories").status_code == 200
    for role in (Role.REVIEWER, Role.MEMBER):
        Membership.objects.filter(pk=membership.pk).update(role=role)
        assert his.get("/memories").status_code == 403
        assert his.delete("/memories?user_id=alice").status_code == 403
        assert his.get("/memories?user_id=alice").status_code == 200
    membership.delete()
    assert his.get("/memories?user_id=alice").status_code == 403
    body = {"messages": [{"role": "user", "content": "x"}], "user_id": "alice"}
    assert his.post("/memories", body).status_code == 403


def test_a_promotion_gives_a_key_no_more_than_its_scopes(
    api: Any, as_key: Any, key: Any, bob: Account
) -> None:
    his = as_key(key("read", owner=bob))
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    assert his.get("/entities").status_code == 200
    assert his.get("/memories").status_code == 403
    body = {"messages": [{"role": "user", "content": "x"}], "user_id": "alice"}
    assert his.post("/memories", body).status_code == 403


def test_a_member_of_one_project_has_no_role_in_another(
    api: Any, as_key: Any, key: Any, charlie: Account, other_project: Project, project: Project
) -> None:
    made = key(owner=charlie, project=other_project)
    ApiKey.objects.filter(owner=charlie).update(project=project)
    assert as_key(made).get("/entities").status_code == 403


def test_revocation_expiry_and_deactivation_hold_on_the_next_request(
    as_key: Any, key: Any, alice: Account
) -> None:
    api = as_key(key())
    now = timezone.now()
    for change, undo, message in (
        ({"revoked_at": now}, {"revoked_at": None}, "Invalid API key."),
        (
            {"expires_at": now - timedelta(seconds=1)},
            {"expires_at": None},
            "API key has expired.",
        ),
    ):
        assert api.get("/entities").status_code == 200
        ApiKey.objects.update(**change)
        answer = api.get("/entities")
        assert (answer.status_code, answer.json()) == (401, {"detail": message})
        ApiKey.objects.update(**undo)
    Account.objects.filter(pk=alice.pk).update(is_active=False)
    answer = api.get("/entities")
    assert (answer.status_code, answer.json()) == (401, {"detail": "API key owner not found."})


def test_a_limited_key_sees_lists_and_finds_only_what_is_within(
    api: Any, as_key: Any, key: Any
) -> None:
    inside = api.add("tea of alice", agent_id="bot")
    outside = api.add("tea of bob", user_id="bob", agent_id="bot")
    nobody = api.add("tea of nobody", user_id="x", agent_id="bot")
    Memory.objects.filter(id=nobody).update(user_id="")
    limited = as_key(key(entity_limit={"user_id": ["alice", "zoe"]}))

    def ids(answer: Any) -> list[str]:
        assert answer.status_code == 200
        return [m["id"] for m in answer.json()["results"]]

    assert ids(limited.get("/memories")) == [inside]
    assert ids(limited.get("/memories?agent_id=bot")) == [inside]
    assert ids(limited.get("/memories?user_id=bob")) == []
    for filters in ({"agent_id": "bot"}, {"user_id": "*"}, {"NOT": {"x": 1}, "agent_id": "bot"}):
        body = {"query": "tea", "filters": filters, "threshold": 0}
        assert ids(limited.post("/search", body)) == [inside], filters
    entities = limited.get("/entities").json()
    assert [(e["type"], e["id"], e["total_memories"]) for e in entities] == [
        ("agent", "bot", 1),
        ("user", "alice", 1),
    ]
    for hidden in (outside, nobody):
        assert replies(limited, hidden)[:5] == replies(limited, str(uuid4()))[:5]
        assert Memory.objects.get(id=hidden).rev == 1


def test_a_limited_key_adds_only_within_its_limit(api: Any, as_key: Any, key: Any) -> None:
    limited = as_key(key(entity_limit={"user_id": ["alice"], "app_id": ["proj"]}))
    message = {"messages": [{"role": "user", "content": "tea"}]}
    for ids in (
        {"user_id": "bob", "app_id": "proj"},
        {"user_id": "alice"},
        {"user_id": "alice", "app_id": "other"},
        {"user_id": "alice", "metadata": {"app_id": "other"}},
        {"agent_id": "alice", "app_id": "proj"},
        {"run_id": "r"},
    ):
        answer = limited.post("/memories", {**message, **ids})
        assert answer.status_code == 403, ids
        assert isinstance(answer.json()["detail"], str)
    assert not Memory.objects.exists()
    sound = {"user_id": "alice", "app_id": "proj", "agent_id": "any"}
    assert limited.post("/memories", {**message, **sound}).status_code == 200
    adopted = {"user_id": "alice", "metadata": {"app_id": "proj"}}
    assert limited.post("/memories", {**message, **adopted}).status_code == 200


def test_a_limited_key_changes_and_deletes_only_within_its_limit(
    api: Any, as_key: Any, key: Any
) -> None:
    limited = as_key(key(entity_limit={"app_id": ["proj"]}))
    inside = api.add("tea", app_id="proj")
    outside = api.add("coffee", app_id="other")
    limited.put(f"/memories/{inside}", {"metadata": {"app_id": "other"}})
    assert Memory.objects.get(id=inside).app_id == "proj"
    assert limited.get(f"/memories/{inside}").json() is not None
    assert limited.delete("/memories?user_id=alice").status_code == 200
    assert api.get(f"/memories/{inside}").json() is None
    assert limited.get(f"/memories/{inside}/history").json()[-1]["event"] == "DELETE"
    assert limited.delete("/entities/user/alice").status_code == 200
    assert api.get(f"/memories/{outside}").json()["memory"] == "coffee"


def test_keys_and_requests_of_another_project_do_not_exist(
    api: Any, foreign: Any, as_key: Any, charlie: Account
) -> None:
    made = api.post("/api-keys", {"label": "hers"}).json()
    RequestLog.objects.create(
        project=Project.objects.get(slug="default"),
        method="GET",
        path="/entities/user/alice",
        status_code=200,
        latency_ms=1,
        auth_type="api_key",
        created_at=timezone.now(),
    )
    strangers = as_key(None)
    strangers.headers |= {
        "Authorization": f"Bearer {open_session(charlie).access}",
        "X-Project": "other",
    }
    for caller in (foreign, strangers):
        answers = [caller.delete(f"/api-keys/{id_}") for id_ in (made["id"], uuid4())]
        assert len({(a.status_code, a.content) for a in answers}) == 1
        assert [k["label"] for k in caller.get("/api-keys").json()] == ["test"]
        assert caller.get("/requests").json() == []
        assert caller.get("/auth/me").json()["email"] == "charlie@example.org"
    assert len(api.get("/requests").json()) == 1
    assert as_key(made["key"]).get("/entities").status_code == 200


def test_a_session_finds_nothing_of_another_project(
    api: Any, as_key: Any, charlie: Account
) -> None:
    id_ = api.add(KEY_TEXT)
    strangers = as_key(None)
    strangers.headers["Authorization"] = f"Bearer {open_session(charlie).access}"
    strangers.headers["X-Project"] = "other"
    assert replies(strangers, id_) == replies(strangers, str(uuid4()))
    for wanted in ("default", str(Project.objects.get(slug="default").id), "nowhere", str(uuid4())):
        strangers.headers["X-Project"] = wanted
        told = {(status, body) for status, body in replies(strangers, id_)}
        assert told == {(404, '{"detail":"Project not found."}')}
    del strangers.headers["X-Project"]
    assert {status for status, _ in replies(strangers, id_)} == {403}
    assert Memory.objects.get(id=id_).rev == 1


def test_all_three_schemes_carry_a_key(client: Any, key: Any) -> None:
    made = key("read")
    for headers in (
        {"X-API-Key": made},
        {"Authorization": f"Token {made}"},
        {"Authorization": f"Bearer {made}"},
        {"Authorization": f"bearer {made}"},
        {"Authorization": f"TOKEN  {made} "},
        {"X-API-Key": f" {made} "},
        {"X-API-Key": made, "Authorization": "Basic eDp5"},
    ):
        assert client.get("/entities", headers=headers).status_code == 200, headers


FOREIGN = ("Bearer a.b.c", "Token m0sk_wrong", "Bearer m0sk_" + "x" * 43, "Bearer", "Basic eDp5")


def test_a_right_key_counts_whatever_stands_in_the_other_header(
    client: Any, key: Any, alice: Account
) -> None:
    """As behind a proxy that signs people in and leaves its own header there."""
    for other in FOREIGN:
        for path in ("/entities", "/api/v1/memories?user_id=x"):
            headers = {"X-API-Key": key(), "Authorization": other}
            assert client.get(path, headers=headers).status_code == 200, (path, other)
    session = f"Bearer {open_session(alice).access}"
    for right in (f"Bearer {key()}", f"Token {key()}", session):
        for wrong in ("", "m0sk_wrong", "m0sk_" + "x" * 43, "a.b.c"):
            headers = {"X-API-Key": wrong, "Authorization": right}
            assert client.get("/entities", headers=headers).status_code == 200, (right, wrong)


def test_two_wrong_credentials_are_none(client: Any, key: Any, alice: Account) -> None:
    gone = key()
    ApiKey.objects.update(revoked_at=timezone.now())
    for first in (gone, "", "m0sk_" + "x" * 43, open_session(alice).access):
        for second in (*FOREIGN, f"Bearer {gone}", f"Token {gone}"):
            headers = {"X-API-Key": first, "Authorization": second}
            assert client.get("/entities", headers=headers).status_code == 401, (first, second)


def test_of_two_right_credentials_the_one_in_x_api_key_counts_alone(
    client: Any, key: Any, alice: Account, django_assert_num_queries: Any
) -> None:
    """Rights never add up, and never depend on which of the two has more of them."""
    strong, weak = key(), key("read")
    everything = f"Bearer {open_session(alice).access}"
    for first, second, allowed in (
        (weak, f"Bearer {strong}", 403),
        (weak, everything, 403),
        (strong, f"Bearer {weak}", 200),
    ):
        headers = {"X-API-Key": first, "Authorization": second}
        assert client.get("/requests", headers=headers).status_code == allowed
    # Without the other header, what a request asks the database stays what it was.
    client.get("/configure/providers", headers={"X-API-Key": strong})
    with django_assert_num_queries(1):
        client.get("/configure/providers", headers={"X-API-Key": strong})
    with django_assert_num_queries(1):
        same = {"X-API-Key": strong, "Authorization": f"Bearer {strong}"}
        client.get("/configure/providers", headers=same)


@pytest.mark.parametrize("scheme", ["X-API-Key", "Token", "Bearer"])
def test_the_admin_key_of_the_instance_owns_every_project(
    engine: Any, client: Any, settings: Any, other_project: Project, scheme: str
) -> None:
    settings.ADMIN_API_KEY = ADMIN_KEY
    headers = (
        {"X-API-Key": ADMIN_KEY}
        if scheme == "X-API-Key"
        else {"Authorization": f"{scheme} {ADMIN_KEY}"}
    )
    for chosen, expected_slug in (
        ({}, "default"),
        ({"X-Project": "other"}, "other"),
        ({"X-Project": str(other_project.id)}, "other"),
        ({"X-Project": str(other_project.id).upper()}, "other"),
        ({"X-Project": ""}, "default"),
    ):
        body = {"messages": [{"role": "user", "content": "tea"}], "user_id": "alice"}
        answer = client.post("/memories", body, "application/json", headers={**headers, **chosen})
        assert answer.status_code == 200
        stored = Memory.objects.select_related("project").get(id=answer.json()["results"][0]["id"])
        assert stored.project.slug == expected_slug
        assert client.get("/memories", headers={**headers, **chosen}).status_code == 200
    for unknown in ("nowhere", str(uuid4()), "OTHER ", "x" * 500, "'"):
        answer = client.get("/entities", headers={**headers, "X-Project": unknown})
        if unknown.strip().lower() != "other":
            assert answer.status_code == 404, unknown
            assert answer.json() == {"detail": "Project not found."}


def test_an_api_key_cannot_choose_another_project(
    api: Any, client: Any, key: Any, other_project: Project
) -> None:
    headers = {"X-API-Key": key(), "X-Project": "other"}
    body = {"messages": [{"role": "user", "content": "tea"}], "user_id": "alice"}
    client.post("/memories", body, "application/json", headers=headers)
    assert not Memory.objects.filter(project=other_project).exists()


def test_without_the_setting_there_is_no_admin_key(client: Any, db: None, settings: Any) -> None:
    settings.ADMIN_API_KEY = ""
    for sent in ("", " ", "None", ADMIN_KEY):
        assert client.get("/entities", headers={"X-API-Key": sent}).status_code == 401
    settings.ADMIN_API_KEY = ADMIN_KEY
    for sent in (ADMIN_KEY[:-1], ADMIN_KEY + "x", ADMIN_KEY.upper(), "é" * 30):
        assert client.get("/entities", headers={"X-API-Key": sent}).status_code == 401


def test_with_auth_disabled_everybody_owns_the_instance_but_a_wrong_key_stays_wrong(
    engine: Any, client: Any, settings: Any, other_project: Project
) -> None:
    settings.AUTH_DISABLED = True
    assert client.get("/memories").status_code == 200
    assert client.delete("/memories?user_id=nobody").status_code == 200
    assert client.get("/memories", headers={"X-Project": "other"}).status_code == 200
    assert client.get("/memories", headers={"X-Project": "nowhere"}).status_code == 404
    for headers in (
        {"X-API-Key": "m0sk_wrong"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "Token " + "m0sk_" + "x" * 43},
    ):
        assert client.get("/memories", headers=headers).status_code == 401
