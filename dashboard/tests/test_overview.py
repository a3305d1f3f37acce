"""The overview: true counts, what failed, the last requests, the state of all parts."""

import re
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, InstanceState, Membership, Project, Role
from accounts.services import complete_setup
from accounts.tests.signing import sign_in
from core.errors import IndexUnavailableError, ProviderError
from dashboard.condition import list_components
from memories import health as told
from memories import runtime
from memories.browse import totals
from memories.engine.catalogue import ProviderChoice
from memories.engine.engine import Engine
from memories.models import AddInput, Memory
from memories.models.server import IndexState, Reembedding
from operations.models import RequestLog

pytestmark = pytest.mark.usefixtures("engine")

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'


@pytest.fixture(autouse=True)
def owned(alice: Account) -> None:
    InstanceState.objects.update(owner_created_at=timezone.now())
    complete_setup()


def text_of(signed_in: Client, **headers: str) -> str:
    answer = signed_in.get("/dashboard", headers=headers)
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.content.decode())


def tile(text: str, name: str) -> tuple[str, str]:
    """The number and the line below it."""
    pattern = rf'<h2>{name}</h2> <p class="tile-n">([^<]*)</p> <p class="tile-more">(.*?)</p>'
    found = re.search(pattern, text)
    assert found is not None, name
    return found[1], found[2]


def request_row(project: Project, **fields: Any) -> RequestLog:
    values = {
        "method": "GET",
        "path": "/memories",
        "status_code": 200,
        "latency_ms": 1.5,
        "auth_type": "api_key",
        "key_prefix": "m0sk_abcd",
        "created_at": timezone.now(),
    }
    return RequestLog.objects.create(project=project, **values | fields)


def failed_add(project: Project, minutes: int = 5, **fields: Any) -> AddInput:
    values: dict[str, Any] = {
        "messages": [{"role": "user", "content": "I moved"}],
        "outcome": AddInput.Outcome.FAILED,
        "code": "provider_timeout",
        "reason": "Provider timed out. Retry shortly.",
        "cause": "HTTP 504: too late",
    }
    at = timezone.now() - timedelta(minutes=minutes)
    return AddInput.objects.create(
        project=project, created_at=at, finished_at=at, **values | fields
    )


def test_a_fresh_server_shows_how_to_store_the_first_memory(signed_in: Client) -> None:
    text = text_of(signed_in)
    assert "No memories yet" in text
    assert "curl http://testserver/memories" in text
    assert "tile-n" not in text and "Last requests" not in text


def test_the_counts_are_those_of_what_is_stored(
    signed_in: Client, api: Any, project: Project, other_project: Project
) -> None:
    ids = [api.add(f"fact {n}", user_id=f"u{n % 3}", agent_id="bot") for n in range(7)]
    now = timezone.now()
    Memory.objects.filter(id=ids[0]).update(created_at=now - timedelta(days=3))
    Memory.objects.filter(id=ids[1]).update(created_at=now - timedelta(days=30))
    Memory.objects.filter(id__in=ids[:3]).update(review_status="approved")
    Memory.objects.filter(id=ids[3]).update(review_status="stale")
    api.delete(f"/memories/{ids[6]}")
    Memory.objects.filter(id=ids[5]).update(project=other_project)
    text = text_of(signed_in)
    assert tile(text, "Memories") == ("5", "3 new in 24 hours, 4 in 7 days")
    assert tile(text, "Not reviewed") == ("1", "3 approved, 0 rejected, 1 stale")
    assert tile(text, "Users") == ("3", "1 agent, 0 apps, 0 runs")
    assert tile(text, "Failed adds") == ("0", "None in 30 days")


def test_counts_that_took_long_are_good_for_a_while(
    signed_in: Client, api: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(totals._kept, "long", 0.0)
    totals._kept.clear()
    clock = [1000.0]
    monkeypatch.setattr("core.kept.time", SimpleNamespace(monotonic=lambda: clock[0]))
    count = totals._count

    def slowly(principal: Any) -> Any:
        clock[0] += 2
        return count(principal)

    monkeypatch.setattr(totals, "_count", slowly)
    api.add("one")
    assert tile(text_of(signed_in), "Memories")[0] == "1"
    api.add("two")
    assert tile(text_of(signed_in), "Memories")[0] == "1"
    clock[0] += 20
    assert tile(text_of(signed_in), "Memories")[0] == "2"


def test_failed_adds_are_told_by_reason_with_cause_and_what_to_do(
    signed_in: Client, project: Project, other_project: Project
) -> None:
    for minutes in (5, 60, 120):
        failed_add(project, minutes, cause=f"HTTP 504: {minutes}")
    failed_add(project, 1, code="internal_error", reason="Internal error.", cause="")
    failed_add(project, messages=[])  # erased: nothing to try again
    failed_add(project, outcome=AddInput.Outcome.STORED)
    failed_add(other_project, reason="Foreign.")
    text = text_of(signed_in)
    assert tile(text, "Failed adds")[0] == "4"
    assert "3 failed" in text and "1 failed" in text and "Foreign." not in text
    assert "HTTP 504: 5" in text and "HTTP 504: 60" not in text
    assert text.index("Internal error.") < text.index("Provider timed out.")
    assert ">5 min ago</time>" in text and ">2 h ago</time>" in text
    assert "manage.py retry_adds" in text
    assert "raise PROVIDER_TIMEOUT" in text and "server&#x27;s log" in text


def test_members_see_neither_requests_nor_causes_nor_commands(
    engine: Any, bob: Account, project: Project, monkeypatch: Any
) -> None:
    failed_add(project)
    request_row(project, path="/secret-path")
    monkeypatch.setattr(runtime, "_current", None)
    signed_in = sign_in(bob)
    text = text_of(signed_in)
    assert "Provider timed out." in text and "HTTP 504" not in text
    assert "/secret-path" not in text and "Last requests" not in text
    assert "manage.py" not in text.replace("manage.py create_api_key", "")
    assert "Tell an administrator of this server." in text
    Membership.objects.update(role=Role.ADMIN)
    text = text_of(signed_in)
    assert "HTTP 504" in text and "/secret-path" in text


def test_the_last_requests_are_those_of_the_project_newest_first(
    signed_in: Client, project: Project, other_project: Project, api: Any
) -> None:
    api.add("something")
    for n in range(12):
        at = timezone.now() + timedelta(seconds=n)
        request_row(project, path=f"/row/{n}", status_code=[200, 404, 502][n % 3], created_at=at)
    request_row(other_project, path="/foreign")
    text = text_of(signed_in)
    shown = re.findall(r'title="(/row/\d+)"', text)
    assert shown == [f"/row/{n}" for n in range(11, 3, -1)]
    assert "/foreign" not in text


def test_stored_texts_are_inert(
    signed_in: Client, alice: Account, project: Project, api: Any
) -> None:
    api.add(HOSTILE, user_id=HOSTILE.replace(" ", ""))
    Account.objects.filter(pk=alice.pk).update(name=HOSTILE)
    Project.objects.filter(pk=project.pk).update(name=HOSTILE)
    failed_add(project, reason=HOSTILE, cause=HOSTILE, code=HOSTILE[:40])
    request_row(project, path=HOSTILE, client=HOSTILE, method="<b>", key_prefix='"><i>')
    text = text_of(signed_in)
    assert "<img" not in text and "<b>&" not in text and "<i>" not in text
    assert "<script>" not in text
    assert text.count("&lt;img src=x") >= 6


def test_the_number_of_statements_does_not_grow_with_what_is_stored(
    signed_in: Client, project: Project, api: Any
) -> None:
    def statements() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            text_of(signed_in)
        return len(captured)

    api.add("one", user_id="u")
    failed_add(project)
    request_row(project)
    text_of(signed_in)
    few = statements()
    for n in range(15):
        api.add(f"more {n}", user_id=f"u{n}", agent_id=f"a{n}")
        failed_add(project, n, reason=f"Reason {n}")
        request_row(project)
    assert statements() == few
    assert few <= 16


def test_a_refresh_gets_the_overview_alone_and_the_way_back_a_whole_page(signed_in: Client) -> None:
    part = text_of(signed_in, **{"HX-Request": "true"})
    assert 'id="overview"' in part and "<html" not in part
    back = {"HX-Request": "true", "HX-History-Restore-Request": "true"}
    assert "<html" in text_of(signed_in, **back)


# --- Health ---------------------------------------------------------------------------------------


def part(name: str) -> Any:
    [found] = [part for part in list_components(may_manage=True) if part.name == name]
    return found


def test_all_is_well(signed_in: Client, engine: Any) -> None:
    assert {p.state for p in list_components(may_manage=True)} <= {"ok", "info"}
    assert "All in order" in text_of(signed_in)
    assert part("Database").since is not None
    assert part("Search index").word == "In order"
    assert part("Language model").word == "Not in use"


def test_an_index_that_does_not_answer_is_told_since_when(
    signed_in: Client, engine: Any, monkeypatch: Any
) -> None:
    well_since = part("Search index").since

    def away() -> int:
        raise IndexUnavailableError("The vector store is unreachable.")

    monkeypatch.setattr(engine.indexer.index, "count", away, raising=False)
    found = part("Search index")
    assert (found.state, found.word) == ("bad", "Not answering")
    assert found.detail == "The vector store is unreachable."
    assert found.since >= well_since
    assert part("Search index").since == found.since, "it is the same outage"
    assert "Search index: not answering" in text_of(signed_in)
    monkeypatch.undo()
    runtime.install(engine)
    assert part("Search index").word == "In order"


def test_an_index_that_is_built_anew_says_so(engine: Any, project: Project) -> None:
    IndexState.objects.update(rebuild_wanted_at=timezone.now() + timedelta(minutes=1))
    found = part("Search index")
    assert (found.state, found.word) == ("info", "Being built")


def test_changes_that_the_index_has_not_seen_are_counted(engine: Any, api: Any) -> None:
    api.add("one")
    assert part("Search index").word == "In order", "it is in it, though not on disk yet"
    Memory.objects.update(rev=9)
    engine.indexer.settle()
    found = part("Search index")
    assert (found.state, found.word) == ("info", "Catching up")
    assert "1 change is on the way" in found.detail


def test_the_local_model_is_named(engine: Any) -> None:
    assert part("Embedder").detail == "Local model · test/words-1"


def test_a_missing_local_model_says_how_to_get_it(engine: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "engine", Engine(None))
    found = part("Embedder")
    assert (found.state, found.word, found.command) == (
        "warn",
        "Not ready",
        "manage.py prepare_embedder",
    )


def test_an_embedder_that_fails_is_told_until_it_answers(
    engine: Any, embedder: Any, api: Any, monkeypatch: Any
) -> None:
    choice = ProviderChoice("openai", {"model": "small", "api_key": "k"})
    kept = told.configuration.Configuration(embedder=choice, dims=64)
    monkeypatch.setattr(told.configuration, "current_configuration", lambda: kept)
    embedder.error = ProviderError(
        "Provider rejected.", code="provider_auth_failed", cause="HTTP 401: no"
    )
    for _ in range(2):
        api.post("/search", {"query": "tea", "user_id": "alice"})
    found = part("Embedder")
    assert (found.state, found.word, found.cause) == ("bad", "Failing", "HTTP 401: no")
    assert "OpenAI does not accept the key" in found.todo
    since = found.since
    api.post("/search", {"query": "coffee", "user_id": "alice"})
    assert part("Embedder").since == since
    embedder.error = None
    api.post("/search", {"query": "water", "user_id": "alice"})
    assert (part("Embedder").state, part("Embedder").since_word) == ("ok", "answered")


def test_a_language_model_that_cannot_be_set_up_is_told(engine: Any, monkeypatch: Any) -> None:
    kept = told.configuration.Configuration(llm=ProviderChoice("ollama", {"model": "llama3.1"}))
    monkeypatch.setattr(told.configuration, "current_configuration", lambda: kept)
    found = part("Language model")
    assert (found.state, found.word, found.detail) == ("warn", "Not ready", "Ollama · llama3.1")


def test_every_page_tells_when_a_part_needs_attention(
    signed_in: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "attention" not in text_of(signed_in).replace("All in order", "")

    def broken() -> None:
        raise IndexUnavailableError("The index does not answer.")

    monkeypatch.setattr(runtime, "check_index", broken)
    text = text_of(signed_in)
    rail = text[text.index('class="rail-attention"') :]
    assert "1 part needs attention</a>" in rail[:400] and 'href="/dashboard"' in rail[:60]
    monkeypatch.undo()
    assert "rail-attention" not in text_of(signed_in)


@pytest.mark.parametrize("problem", ["", "Provider timed out."])
def test_a_change_of_embedder_shows_how_far_it_is(
    signed_in: Client, engine: Any, api: Any, problem: str
) -> None:
    assert not [p for p in list_components(may_manage=True) if p.name == "Change of embedder"]
    api.add("one")
    api.add("two")
    job = Reembedding.objects.create(
        config={}, model_key="openai/small/8", dims=8, former_config={}, problem=problem
    )
    found = part("Change of embedder")
    assert found.progress == (0, 2)
    assert found.detail == "From words only to openai/small/8: 0 of 2 memories"
    assert (found.state, found.cause) == (("warn" if problem else "info"), problem)
    assert '<progress value="0" max="2"' in text_of(signed_in)
    job.state, job.finished_at = "flipped", timezone.now()
    job.save()
    found = part("Change of embedder")
    assert (found.state, found.word, found.progress) == ("ok", "Done", None)
