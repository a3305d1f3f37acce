"""POST /api/v1/memories/delete_bulk: counted first, deleted on confirmation, never everything."""

from typing import Any

import pytest

from core.counters import registry
from core.errors import ConflictError
from memories.bulk import service as bulk
from memories.bulk import sweep
from memories.models import Memory, Revision
from memories.tests.actions import add
from memories.tests.memserv import Memserv


@pytest.fixture
def rest(engine: Any, client: Any, key: Any, settings: Any) -> Memserv:
    settings.MEM0_DEFAULT_USER_ID = "me"
    return Memserv(client, key())


def live() -> set[str]:
    return set(Memory.objects.filter(deleted_at=None).values_list("text", flat=True))


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"confirm": True},
        {"user_id": "me", "confirm": True},
        {"user_id": "me", "source": None, "confirm": True},
    ],
)
def test_without_a_filter_beside_the_user_nothing_is_deleted(
    rest: Memserv, filters: dict[str, Any]
) -> None:
    rest.add("tea")
    answer = rest("POST", "/delete_bulk", filters)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(
        "Provide at least one filter (agent_id, run_id, source, confidence, review_status)."
    )
    assert live() == {"tea"}


@pytest.mark.parametrize("name", ["agent_id", "run_id", "source", "confidence", "review_status"])
def test_an_empty_filter_is_no_filter(rest: Memserv, name: str) -> None:
    rest.add("tea", metadata={"source": "x"})
    for empty in ("", " "):
        body = {name: empty, "confirm": True}
        if name != "source":
            body["source"] = "x"
        assert rest("POST", "/delete_bulk", body).status_code == 422
    assert live() == {"tea"}


@pytest.mark.parametrize(
    ("filters", "gone"),
    [
        ({"agent_id": "one"}, {"one"}),
        ({"run_id": "r"}, {"two"}),
        ({"source": "import"}, {"three", "four"}),
        ({"source": "import", "confidence": "low"}, {"four"}),
        ({"confidence": "low"}, {"four"}),
        ({"review_status": "rejected"}, {"five"}),
        ({"agent_id": "one", "run_id": "r"}, set()),
        ({"source": "import", "user_id": "ann"}, {"ann's"}),
    ],
)
def test_exactly_what_matches_is_deleted(
    rest: Memserv, filters: dict[str, Any], gone: set[str]
) -> None:
    rest.add("one", agent_id="one")
    rest.add("two", run_id="r")
    rest.add("three", metadata={"source": "import", "expires_at": "2020-01-01T00:00:00Z"})
    rest.add("four", metadata={"source": "import", "confidence": "low"})
    rest.add("five", metadata={"review_status": "rejected"})
    rest.add("ann's", user_id="ann", metadata={"source": "import"})
    everything = live()
    dry = rest.ok("POST", "/delete_bulk", filters)
    assert (dry["matched"], dry["deleted"], dry["dry_run"]) == (len(gone), 0, True)
    assert {one["memory"] for one in dry["sample"]} == gone
    assert live() == everything
    assert rest.ok("POST", "/delete_bulk", {**filters, "confirm": False})["dry_run"] is True
    counted = registry.get_sample_value("memories_bulk_deleted_total")
    done = rest.ok("POST", "/delete_bulk", {**filters, "confirm": True})
    assert (done["matched"], done["deleted"]) == (len(gone), len(gone))
    assert (done["dry_run"], done["has_more"]) == (False, False)
    assert live() == everything - gone
    assert registry.get_sample_value("memories_bulk_deleted_total") - counted == len(gone)
    again = rest.ok("POST", "/delete_bulk", {**filters, "confirm": True})
    assert (again["matched"], again["deleted"]) == (0, 0)


def test_each_has_its_history_and_all_can_be_brought_back(rest: Memserv, owner: Any) -> None:
    for n in range(3):
        rest.add(f"fact {n}", metadata={"source": "import"})
    answer = rest(
        "POST", "/delete_bulk", {"source": "import", "confirm": True}, **{"X-Request-ID": "abc"}
    )
    assert answer.status_code == 200
    told = Revision.objects.filter(event="DELETE")
    assert {(row.request_id, row.via) for row in told} == {("abc", "api_key")}
    assert {row.old_text for row in told} == {"fact 0", "fact 1", "fact 2"}
    [operation] = bulk.recent(owner)
    bulk.undo(owner, operation.id)
    assert live() == {"fact 0", "fact 1", "fact 2"}


def test_a_call_deletes_a_portion_and_says_that_there_is_more(
    rest: Memserv, monkeypatch: Any, owner: Any
) -> None:
    monkeypatch.setattr(sweep, "PORTION", 20)
    texts = [f"fact {n:02}" for n in range(45)]
    add(owner, *texts, user_id="me", metadata={"source": "import"})
    filters = {"source": "import"}
    dry = rest.ok("POST", "/delete_bulk", filters)
    assert (dry["matched"], dry["has_more"], len(dry["sample"])) == (20, True, 10)
    counts = []
    while True:
        done = rest.ok("POST", "/delete_bulk", {**filters, "confirm": True})
        counts.append(done["deleted"])
        if not done["has_more"]:
            break
    assert counts == [20, 20, 5]
    assert live() == set()


def test_a_thousand_go_in_one_call(rest: Memserv, owner: Any) -> None:
    for n in range(0, 1002, 167):
        add(owner, *(f"{n + i}" for i in range(167)), user_id="me", metadata={"source": "x"})
    done = rest.ok("POST", "/delete_bulk", {"source": "x", "confirm": True})
    assert (done["matched"], done["deleted"], done["has_more"]) == (1000, 1000, True)
    done = rest.ok("POST", "/delete_bulk", {"source": "x", "confirm": True})
    assert (done["matched"], done["deleted"], done["has_more"]) == (2, 2, False)


def test_what_others_change_meanwhile_is_looked_at_again(rest: Memserv, monkeypatch: Any) -> None:
    rest.add("one", metadata={"source": "x"})
    two = rest.add("two", metadata={"source": "x"})
    plan = bulk.plan

    def in_between(*args: Any, **kwargs: Any) -> Any:
        made = plan(*args, **kwargs)
        rest.ok("PUT", f"/{two}", {"content": "two, changed"})
        monkeypatch.setattr(bulk, "plan", plan)
        return made

    monkeypatch.setattr(bulk, "plan", in_between)
    done = rest.ok("POST", "/delete_bulk", {"source": "x", "confirm": True})
    assert (done["matched"], done["deleted"]) == (2, 2)
    assert live() == set()


def test_where_it_never_holds_still_nothing_is_deleted(rest: Memserv, monkeypatch: Any) -> None:
    rest.add("one", metadata={"source": "x"})

    def never(*args: Any, **kwargs: Any) -> Any:
        raise ConflictError("changed")

    monkeypatch.setattr(bulk, "run", never)
    answer = rest("POST", "/delete_bulk", {"source": "x", "confirm": True})
    assert (answer.status_code, answer.json()["error"]) == (409, "conflict")
    assert live() == {"one"}


@pytest.mark.parametrize("scopes", [("read",), ("read", "write"), ("admin",)])
def test_it_needs_the_scope_review_also_to_count(
    rest: Memserv, client: Any, key: Any, scopes: tuple[str, ...]
) -> None:
    rest.add("one", metadata={"source": "x"})
    for confirm in (False, True):
        body = {"source": "x", "confirm": confirm}
        answer = Memserv(client, key(*scopes))("POST", "/delete_bulk", body)
        assert (answer.status_code, answer.json()["error"]) == (403, "permission_denied")
        assert b"one" not in answer.content
    assert live() == {"one"}
