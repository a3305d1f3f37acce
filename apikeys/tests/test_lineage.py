"""Whatever made a key can be ended with everything that it made."""

import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from accounts.models import Account, Project
from accounts.sessions import open_session
from apikeys import services
from apikeys.models import ApiKey
from conftest import Api
from core.errors import ConflictError, InvalidCredentialError

ADMIN_KEY = "an-admin-key-of-the-instance"


def make(key: str | None, label: str = "child", **headers: str) -> tuple[str, str]:
    """Id and text of a key that this one makes over REST."""
    caller = Api(Client(), key)
    caller.headers |= headers
    answer = caller.post("/api-keys", {"label": label})
    assert answer.status_code == 201, answer.content
    return answer.json()["id"], answer.json()["key"]


def holds(key: str) -> bool:
    return bool(Api(Client(), key).get("/configure/providers").status_code == 200)


def family(key: str) -> list[str]:
    """The key, two children, a grandchild by each, and one below that."""
    children = [make(key)[1] for _ in range(2)]
    grandchildren = [make(child)[1] for child in children]
    return [key, *children, *grandchildren, make(grandchildren[0])[1]]


def by_its_owner(key: str) -> None:
    row = ApiKey.objects.get(prefix=key[:12])
    token = open_session(row.owner).access
    caller = Api(Client())
    caller.headers["Authorization"] = f"Bearer {token}"
    assert caller.delete(f"/api-keys/{row.id}").status_code == 200


def by_itself(key: str) -> None:
    row = ApiKey.objects.get(prefix=key[:12])
    assert Api(Client(), key).delete(f"/api-keys/{row.id}").status_code == 200


def by_command(key: str) -> None:
    out = StringIO()
    call_command("revoke_api_key", key[:12], stdout=out)
    assert "is revoked, with 5 that it made." in out.getvalue()


@pytest.mark.parametrize("end", [by_its_owner, by_itself, by_command])
def test_a_key_ends_with_all_that_it_made_and_with_nothing_else(
    key: Any, end: Callable[[str], None]
) -> None:
    other = family(key())
    mine = family(key())
    assert all(map(holds, other + mine))
    end(mine[0])
    assert not any(map(holds, mine))
    assert all(map(holds, other))


def test_ending_a_child_leaves_its_maker_and_its_siblings(key: Any) -> None:
    root, child, sibling, grandchild, nephew, below = family(key())
    by_itself(child)
    assert [holds(k) for k in (child, grandchild, below)] == [False] * 3
    assert all(map(holds, (root, sibling, nephew)))


def test_each_key_knows_who_made_it(key: Any, alice: Account, settings: Any) -> None:
    settings.ADMIN_API_KEY = ADMIN_KEY
    root = key()
    token = open_session(alice).access
    made = {
        "api_key": make(root)[0],
        "admin_api_key": make(ADMIN_KEY)[0],
        "session": make(None, Authorization=f"Bearer {token}")[0],
    }
    for via, id_ in made.items():
        row = ApiKey.objects.get(id=id_)
        assert row.made_via == via
        maker = ApiKey.objects.get(prefix=root[:12]).id if via == "api_key" else None
        assert row.made_by == maker
    assert ApiKey.objects.get(prefix=root[:12]).made_via == ""


@pytest.mark.parametrize("via", ["session", "admin_api_key"])
def test_what_a_session_or_a_static_key_made_can_be_ended_by_command(
    key: Any, alice: Account, bob: Account, settings: Any, via: str
) -> None:
    settings.ADMIN_API_KEY = ADMIN_KEY
    made = {"session": [], "admin_api_key": []}
    for account in (alice, bob):
        token = open_session(account).access
        made["session"].append(make(None, Authorization=f"Bearer {token}")[1])
    made["admin_api_key"].append(make(ADMIN_KEY)[1])
    ordinary = key()
    below = make(made[via][0])[1]
    out = StringIO()
    call_command("revoke_api_key", made_via=via, owner=alice.email, stdout=out)
    assert out.getvalue() == "2 keys are revoked.\n"
    assert not holds(made[via][0]) and not holds(below)
    rest = [
        made["session"][1],
        ordinary,
        *(made["session" if via != "session" else "admin_api_key"]),
    ]
    assert all(map(holds, rest))
    with pytest.raises(CommandError, match="no account"):
        call_command("revoke_api_key", made_via=via, owner="no@example.org")
    for narrower in (
        {"made_via": via, "owner": ""},
        {"made_via": via, "prefix": ordinary[:12]},
        {"prefix": ordinary[:12], "owner": bob.email},
        {"owner": bob.email},
    ):
        with pytest.raises(CommandError):
            call_command("revoke_api_key", **narrower)
    assert all(map(holds, rest))
    call_command("revoke_api_key", made_via="session", stdout=out)
    assert not any(map(holds, made["session"]))
    assert holds(ordinary)


def test_an_account_has_at_most_fifty_live_keys_in_a_project(
    key: Any, alice: Account, bob: Account, project: Project, other_project: Project
) -> None:
    root = key()
    for _ in range(services.MOST_KEYS - 1):
        services.create_api_key(owner=alice, project=project, label="x")
    answer = Api(Client(), root).post("/api-keys", {"label": "x"})
    assert answer.status_code == 409
    assert "50 live API keys in the project" in answer.json()["detail"]
    with pytest.raises(CommandError, match="50 live API keys"):
        call_command("create_api_key", alice.email, label="x", stdout=StringIO())
    # Others, and other projects, have room; and what was revoked gives its place back.
    services.create_api_key(owner=bob, project=project, label="x")
    services.create_api_key(owner=alice, project=other_project, label="x")
    spare = ApiKey.objects.filter(owner=alice, project=project).exclude(prefix=root[:12])
    services.revoke_api_key(key_id=spare[0].id, owner=alice)
    assert make(root)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls gave, or raised, each in a thread of its own."""
    start, found = threading.Barrier(len(calls)), [None] * len(calls)

    def one(at: int) -> None:
        try:
            start.wait()
            found[at] = calls[at]()
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            found[at] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(at,)) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_many_keys_made_at_once_no_more_than_fifty_are(
    transactional_db: None, alice: Account, project: Project, monkeypatch: Any
) -> None:
    monkeypatch.setattr(services, "MOST_KEYS", 3)

    def one() -> Any:
        return services.create_api_key(owner=alice, project=project, label="x")

    found = at_once(*[one] * 8)
    assert sum(isinstance(error, ConflictError) for error in found) == 5
    assert ApiKey.objects.count() == 3


def test_a_key_that_is_being_revoked_leaves_none_behind(
    transactional_db: None, alice: Account, project: Project
) -> None:
    for _ in range(5):
        root, text = services.create_api_key(owner=alice, project=project, label="root")
        found = services.find_api_key(text)
        assert found is not None
        maker = services.principal_of(found, request_id="", client="")

        def child(maker: Any = maker) -> Any:
            return services.create_api_key(owner=alice, project=project, label="c", maker=maker)

        def end(root: ApiKey = root) -> Any:
            return services.revoke_api_key(key_id=root.id, owner=alice)

        results = at_once(child, child, end, child)
        refused = [r for r in results if isinstance(r, Exception)]
        assert all(isinstance(error, InvalidCredentialError) for error in refused), refused
        assert not ApiKey.objects.filter(revoked_at=None).exists()
