"""GET and POST /api-keys, DELETE /api-keys/{id}: own keys, no more rights than one has."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from accounts.models import Account, Membership, Project
from accounts.sessions import open_session
from apikeys.models import ApiKey
from apikeys.services import KEY_PATTERN

NOT_FOUND = {"detail": "API key not found."}
ALL = ["admin", "read", "review", "write"]


@pytest.fixture
def session(client: Any, as_key: Any) -> Any:
    """`session(account, project=…)`: a client that is signed in."""

    def make(account: Account, project: str = "") -> Any:
        signed_in = as_key(None)
        signed_in.headers["Authorization"] = f"Bearer {open_session(account).access}"
        if project:
            signed_in.headers["X-Project"] = project
        return signed_in

    return make


def make(api: Any, label: str = "laptop") -> dict[str, Any]:
    answer = api.post("/api-keys", {"label": label})
    assert answer.status_code == 201, answer.content
    return dict(answer.json())


def labels(api: Any) -> list[str]:
    answer = api.get("/api-keys")
    assert answer.status_code == 200
    return [row["label"] for row in answer.json()]


def test_a_key_is_made_shown_once_and_works(
    session: Any, as_key: Any, alice: Account, project: Project
) -> None:
    hers = session(alice)
    body = make(hers, "  laptop ")
    assert list(body) == ["id", "key", "label", "key_prefix", "created_at"]
    assert KEY_PATTERN.fullmatch(body["key"])
    assert (body["label"], body["key_prefix"]) == ("laptop", body["key"][:12])
    row = ApiKey.objects.get(id=body["id"])
    assert (row.scopes, row.expires_at, row.entity_limit) == (ALL, None, None)
    assert (row.owner, row.project) == (alice, project)
    assert body["created_at"] == row.created_at.isoformat().replace("+00:00", "Z")
    shown = {name: body[name] for name in ("id", "label", "key_prefix", "created_at")}
    answer = hers.get("/api-keys")
    assert answer.json() == [{**shown, "last_used_at": None}]
    assert body["key"] not in answer.content.decode()
    assert as_key(body["key"]).get("/entities").status_code == 200
    assert hers.get("/api-keys").json()[0]["last_used_at"].endswith("Z")


def test_ones_own_live_keys_are_listed_newest_first(
    session: Any, alice: Account, bob: Account
) -> None:
    hers, his = session(alice), session(bob)
    for label in ("one", "two", "three"):
        make(hers, label)
        make(his, f"his {label}")
    assert labels(hers) == ["three", "two", "one"]
    hers.delete(f"/api-keys/{hers.get('/api-keys').json()[1]['id']}")
    assert labels(hers) == ["three", "one"]
    assert len(labels(his)) == 3


def test_the_list_takes_a_fixed_number_of_queries(
    session: Any, alice: Account, django_assert_max_num_queries: Any
) -> None:
    hers = session(alice)
    for number in range(20):
        make(hers, str(number))
    with django_assert_max_num_queries(5):
        assert len(labels(hers)) == 20


def test_a_key_ends_at_once_and_only_once(session: Any, as_key: Any, alice: Account) -> None:
    hers = session(alice)
    made = make(hers)
    done = hers.delete(f"/api-keys/{made['id']}")
    assert (done.status_code, done.json()) == (200, {"message": "API key revoked."})
    assert as_key(made["key"]).get("/entities").json() == {"detail": "Invalid API key."}
    again = hers.delete(f"/api-keys/{made['id']}")
    assert (again.status_code, again.json()) == (400, {"detail": "API key is already revoked."})


def test_what_is_not_ones_own_key_is_not_found(
    session: Any, as_key: Any, alice: Account, bob: Account, charlie: Account, key: Any, db: None
) -> None:
    hers = make(session(alice))
    for caller in (session(bob), session(charlie, "other"), session(alice, "other")):
        for id_ in (hers["id"], hers["id"].upper(), str(uuid4()), "nonsense", "%00", "1"):
            answer = caller.delete(f"/api-keys/{id_}")
            assert (answer.status_code, answer.json()) == (404, NOT_FOUND), id_
    assert ApiKey.objects.get(id=hers["id"]).revoked_at is None


def test_keys_are_those_of_the_project_of_the_credential(
    session: Any, alice: Account, other_project: Project
) -> None:
    here, there = session(alice), session(alice, "other")
    make(here, "here")
    made = make(there, "there")
    assert labels(here) == ["here"] and labels(there) == ["there"]
    assert ApiKey.objects.get(id=made["id"]).project == other_project


def test_a_key_makes_keys_with_no_more_than_it_has(as_key: Any, key: Any) -> None:
    for scopes, limit in (
        (("write",), None),
        (("read", "write"), {"user_id": ["alice"]}),
        (("admin", "read", "review", "write"), None),
    ):
        made = make(as_key(key(*scopes, entity_limit=limit)))
        row = ApiKey.objects.get(id=made["id"])
        assert (tuple(row.scopes), row.entity_limit) == (scopes, limit)


def test_a_key_makes_keys_that_end_when_it_does(as_key: Any, key: Any) -> None:
    end = timezone.now() + timedelta(days=3)
    made = make(as_key(key("write", expires_at=end)))
    assert ApiKey.objects.get(id=made["id"]).expires_at == end
    grandchild = make(as_key(made["key"]))
    assert ApiKey.objects.get(id=grandchild["id"]).expires_at == end


def test_who_has_no_rights_has_none_to_give(session: Any, bob: Account) -> None:
    his = session(bob)
    assert ApiKey.objects.get(id=make(his)["id"]).scopes == ["read", "write"]
    Membership.objects.filter(account=bob).delete()
    answer = his.post("/api-keys", {"label": "x"})
    assert answer.status_code == 403


def test_a_key_needs_scope_write_to_make_another_one(as_key: Any, key: Any) -> None:
    for scopes in (["read"], ["review"], ["admin"], ["read", "review", "admin"]):
        answer = as_key(key(*scopes)).post("/api-keys", {"label": "x"})
        assert answer.status_code == 403, scopes
        assert answer.json() == {"detail": "This credential lacks the scope 'write'."}
    assert not ApiKey.objects.exclude(label="test").exists()


def test_a_key_that_is_asked_for_with_less_is_not_made_with_everything(
    as_key: Any, key: Any
) -> None:
    mine = as_key(key())
    for less in (
        {"scopes": ["read"]},
        {"scope": "read"},
        {"permissions": []},
        {"expires_at": "2030-01-01T00:00:00Z"},
        {"expiresAt": 1893456000},
        {"entity_limit": {"user_id": ["alice"]}},
        {"user_id": "alice"},
        {"project": "other"},
    ):
        answer = mine.post("/api-keys", {"label": "x", **less})
        assert answer.status_code == 400, less
        assert f"“{next(iter(less))}”" in answer.json()["detail"]
    assert labels(mine) == ["test"]


def test_a_key_sees_and_ends_itself_and_what_it_made_alone(
    as_key: Any, key: Any, session: Any, alice: Account
) -> None:
    sibling, mine = key(), as_key(key())
    child = make(mine, "child")
    grandchild = make(as_key(child["key"]), "grandchild")
    by_session = make(session(alice), "by a session")
    assert labels(mine) == ["grandchild", "child", "test"]
    assert labels(as_key(child["key"])) == ["grandchild", "child"]
    assert labels(as_key(grandchild["key"])) == ["grandchild"]
    assert len(labels(session(alice))) == 5
    above = ApiKey.objects.get(prefix=mine.headers["X-API-Key"][:12])
    beside = ApiKey.objects.get(prefix=sibling[:12])
    for foreign in (beside.id, by_session["id"], above.id):
        answer = as_key(child["key"]).delete(f"/api-keys/{foreign}")
        assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
    assert not ApiKey.objects.exclude(revoked_at=None).exists()
    assert mine.delete(f"/api-keys/{grandchild['id']}").status_code == 200
    assert mine.delete(f"/api-keys/{grandchild['id']}").status_code == 400
    assert mine.delete(f"/api-keys/{above.id}").status_code == 200
    assert mine.get("/api-keys").status_code == 401
    assert as_key(child["key"]).get("/api-keys").status_code == 401
    assert as_key(sibling).get("/api-keys").status_code == 200


@pytest.mark.parametrize("label", ["", "   ", "x" * 151])
def test_a_label_that_cannot_be_is_told(session: Any, alice: Account, label: str) -> None:
    answer = session(alice).post("/api-keys", {"label": label})
    assert answer.status_code == 400
    assert answer.json() == {"detail": "A key needs a label of 1 to 150 characters."}
    assert session(alice).post("/api-keys", {"label": 5}).status_code == 422
    assert not ApiKey.objects.exists()
