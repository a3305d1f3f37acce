"""An upgrade from the release before, with work under way: nothing is lost, what was begun comes to
its end, a plan that somebody has open holds, and the index is not built again."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest

from prove.conftest import MakeServer
from prove.former import COUNT, DELETING, OWNER, PLANNED, TO_APPROVE, TO_DELETE, WITH_STATES
from prove.postgres import Cluster
from prove.server import ROOT, Server
from prove.test_kill import PENDING, Ask, postgres_asker, sqlite_asker

END_SECONDS: Final = 120.0
# The stand-in model: no proof of an upgrade needs a real one.
SETTINGS: Final = {"DJANGO_SETTINGS_MODULE": "benchmarks.settings", "LATE_INTERACTION": "false"}


def of_before(server: Server) -> dict[str, Any]:
    """Fills the server's data directory as the release before did."""
    done = subprocess.run(
        [sys.executable, "-m", "prove.former"],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    server.key = told["key"]
    return told


def wait_for(what: str, is_there: Callable[[], object]) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not is_there():
        assert time.monotonic() < deadline, f"not after {END_SECONDS:.0f} s: {what}"
        time.sleep(0.1)


def count(ask: Ask, table: str, where: str = "1 = 1") -> int:
    return ask(f"SELECT count(*) FROM memories_{table} WHERE {where}")


def signed_in(server: Server) -> httpx.Client:
    """The owner's browser, with the password of before."""
    browser = httpx.Client(base_url=server.url, timeout=60, trust_env=False)
    answer = browser.post("/login", data={**OWNER, **form_token(browser, "/login")})
    assert answer.status_code == 302, answer.text[:500]
    return browser


def form_token(browser: httpx.Client, page: str) -> dict[str, str]:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get(page).text)
    assert found is not None
    return {"csrfmiddlewaretoken": found[1]}


def all_is_there(server: Server, ask: Ask, told: dict[str, Any]) -> None:
    assert count(ask, "memory") == count(ask, "memoryvector") == COUNT
    assert count(ask, "memorytokens") == WITH_STATES
    assert count(ask, "revision", "event = 'ADD'") == COUNT
    client = server.client()
    id_, text, user = told["one"]
    found = client.get(id_)
    assert found is not None and found["memory"] == text
    assert [entry["event"] for entry in client.history(id_)] == ["ADD"]
    assert client.search(text, user_id=user)[0]["id"] == id_
    client.close()


def what_was_begun_ends(server: Server, ask: Ask, told: dict[str, Any]) -> None:
    """Each memory is deleted once, and comes back when all of it is undone."""
    wait_for("the bulk change ends", lambda: count(ask, "operation", "state = 'done'"))
    assert count(ask, "memory", f"user_id = '{DELETING}' AND deleted_at IS NOT NULL") == TO_DELETE
    assert count(ask, "memory", "deleted_at IS NOT NULL") == TO_DELETE
    assert count(ask, "revision", "event = 'DELETE'") == TO_DELETE
    assert ask("SELECT done FROM memories_operation") == TO_DELETE
    browser = signed_in(server)
    path = f"/dashboard/operations/{told['operation']}"
    answer = browser.post(f"{path}/undo", data=form_token(browser, path))
    assert answer.status_code == 302, answer.text[:500]
    wait_for("it is undone", lambda: count(ask, "operation", "state = 'undone'"))
    assert count(ask, "memory", "deleted_at IS NOT NULL") == 0
    browser.close()


def the_plan_holds(server: Server, ask: Ask, told: dict[str, Any]) -> None:
    browser = signed_in(server)
    sent = {
        "token": told["token"],
        "typed": str(TO_APPROVE),
        **form_token(browser, "/dashboard/memories"),
    }
    answer = browser.post("/dashboard/memories/bulk/run", data=sent)
    assert answer.status_code == 302, answer.text[:2000]
    approved = f"user_id = '{PLANNED}' AND review_status = 'approved'"
    wait_for("the plan is done", lambda: count(ask, "memory", approved) == TO_APPROVE)
    assert count(ask, "memory", "review_status = 'approved'") == TO_APPROVE
    browser.close()


def the_index_is_as_it_was(server: Server, ask: Ask) -> None:
    wait_for("the index has all", lambda: not ask(PENDING))
    assert ask("SELECT generation FROM memories_indexstate") == 1
    messages = [entry["message"] for entry in server.logged("info", "warning", "error")]
    assert not [message for message in messages if "rebuilt" in message or "built an" in message]
    server.stop()
    found = server.index_on_disk("compare")
    assert found["held"] == found["live"] == COUNT, found
    assert not found["broken"], found


def columns_are_filled(ask: Ask) -> None:
    """What tables got since then is filled in the rows of before."""
    wait_for("the job ends", lambda: ask("SELECT count(*) FROM jobs_job WHERE state = 'succeeded'"))
    for table in ("memoryvector", "memorytokens"):
        wrong = (
            f"SELECT count(*) FROM memories_{table} t JOIN memories_memory m ON m.id = t.memory_id"
            " WHERE t.project_id IS NULL OR t.project_id <> m.project_id"
        )
        assert ask(wrong) == 0, table


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_upgrade_loses_nothing_and_builds_nothing_again(
    make_server: MakeServer, database: str, request: pytest.FixtureRequest
) -> None:
    environment = dict(SETTINGS)
    if database == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        environment["DATABASE_URL"] = cluster.create_database("former")
    server = make_server(environment=environment)
    ask = (
        postgres_asker(environment["DATABASE_URL"])
        if database == "postgresql"
        else sqlite_asker(server)
    )
    told = of_before(server)
    seconds = server.start()
    print(f"  {database}: healthy {seconds:.1f} s after the start")
    all_is_there(server, ask, told)
    what_was_begun_ends(server, ask, told)
    the_plan_holds(server, ask, told)
    columns_are_filled(ask)
    all_is_there(server, ask, told)
    the_index_is_as_it_was(server, ask)
