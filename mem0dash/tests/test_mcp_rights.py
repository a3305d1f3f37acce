"""Who may call which tool: every tool that is listed, with every kind of credential there is."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from accounts.models import Account, Project
from core.principal import Principal, Scope
from mem0dash.tests.agents import Agent, message
from mem0dash.tests.test_rights import CALLERS, Office
from memories.adding.service import add_memories
from memories.mcp.tools import TOOLS
from memories.models import Memory, Revision
from oauth import service as oauth

# Arguments with which each tool does something to, or tells something of, one memory of "alice".
CALLS: dict[str, dict[str, Any]] = {
    "search_memories": {"query": "green tea", "user_id": "alice"},
    "add_memory": {"content": "Alice also drinks water", "user_id": "alice"},
    "list_memories": {"user_id": "alice"},
    "get_memories": {"user_id": "alice"},
    "get_memory": {"memory_id": "{id}"},
    "update_memory": {"memory_id": "{id}", "content": "Alice drinks black tea"},
    "delete_memory": {"memory_id": "{id}"},
    "memory_history": {"memory_id": "{id}"},
    "list_entities": {},
    "review_memory": {"memory_id": "{id}", "status": "approved"},
}
CHANGES = {"add_memory", "update_memory", "delete_memory", "review_memory"}
TEXT = "Alice likes green tea"


def test_the_table_holds_every_tool_and_no_other() -> None:
    assert CALLS.keys() == TOOLS.keys()
    assert {name for name, spec in TOOLS.items() if not spec.reads} == CHANGES


def state() -> tuple[Any, ...]:
    """All that a call may change in Alice's project."""
    rows = Memory.objects.filter(project__slug="default").order_by("id")
    revisions = Revision.objects.filter(project__slug="default")
    return *rows.values_list("id", "rev", "text", "deleted_at"), revisions.count()


@pytest.fixture
def office(
    dispatcher_db: None, alice: Account, project: Project, other_project: Project, key: Any
) -> Office:
    return Office(alice, project, other_project, key)


@pytest.fixture
def memory(dispatcher_db: None, engine: Any, owner: Principal) -> UUID:
    said = [{"role": "user", "content": TEXT}]
    added = add_memories(owner, messages=said, entities={"user_id": "alice"}, infer=False)
    return UUID(added.results[0]["id"])


def given(tool: str, memory: UUID) -> dict[str, Any]:
    return {k: str(memory) if v == "{id}" else v for k, v in CALLS[tool].items()}


@pytest.mark.parametrize("name", CALLERS)
def test_a_credential_opens_the_tools_of_its_scopes_and_no_others(
    office: Office, memory: UUID, settings: Any, name: str
) -> None:
    settings.RATE_LIMIT_AUTH_FAILURES = 0
    caller = CALLERS[name](office)
    agent = Agent(caller.key, **caller.headers)
    before = state()
    # Deleting comes last: the others need what it takes away.
    for tool in sorted(TOOLS, key=lambda tool: (tool in CHANGES, tool == "delete_memory", tool)):
        reply = agent.call(tool, **given(tool, memory))
        if caller.scopes is None or caller.headers:
            # A session is bound to the pages and the REST routes, and opens nothing here.
            assert reply.status == 401, tool
            continue
        assert reply.status == 200, tool
        text = reply.result["content"][0]["text"]
        if TOOLS[tool].scope not in caller.scopes:
            assert "lacks the scope" in reply.failure, tool
        elif caller.reach != "inside":
            _sees_nothing(tool, caller.reach, reply)
        else:
            assert reply.found is not None, tool
        if TOOLS[tool].scope not in caller.scopes or caller.reach != "inside":
            assert TEXT not in text, tool
    holds = caller.scopes is not None and not caller.headers and caller.reach == "inside"
    if not holds or not caller.scopes & {"write", "review"}:
        assert state() == before


def _sees_nothing(tool: str, reach: str, reply: Any) -> None:
    """What lies outside of a caller's reach is what never was."""
    if tool in {"get_memory", "update_memory", "delete_memory", "review_memory"}:
        assert "not found" in reply.failure
    elif tool == "memory_history":
        assert reply.found == {"history": []}
    elif tool == "add_memory":
        # In its own project a key may add; for somebody outside of its limit it may not.
        assert bool(reply.result["isError"]) is (reach == "limited")
    else:
        assert reply.found["results"] == []


@pytest.mark.parametrize("tool", [tool for tool in CALLS if "memory_id" in CALLS[tool]])
def test_a_memory_of_another_project_is_one_that_never_was(
    office: Office, memory: UUID, key: Any, tool: str
) -> None:
    stranger = Agent(key(project=office.other_project))
    nowhere = UUID("00000000-0000-4000-8000-000000000000")
    foreign = stranger.call(tool, **given(tool, memory)).result
    missing = stranger.call(tool, **given(tool, nowhere)).result
    assert str(foreign).replace(str(memory), str(nowhere)) == str(missing)


@pytest.fixture
def granted(monkeypatch: pytest.MonkeyPatch, owner: Principal) -> Any:
    """Access tokens of OAuth: a token's text is the scopes that it was granted."""

    def principal_of(token: str, **rest: Any) -> Principal | None:
        scopes = frozenset(scope for scope in Scope if scope in token.split("+"))
        return replace(owner, via="oauth", scopes=scopes) if scopes else None

    monkeypatch.setattr(oauth, "principal_of", principal_of)
    return Agent


@pytest.mark.parametrize("tool", CALLS)
@pytest.mark.parametrize("scopes", ["read", "write", "review", "read+write"])
def test_a_grant_that_lacks_a_tools_scope_is_told_which_to_ask_for(
    dispatcher_db: None, memory: UUID, granted: Any, tool: str, scopes: str
) -> None:
    before = state()
    reply = granted(scopes).call(tool, **given(tool, memory))
    needed = TOOLS[tool].scope
    if needed in scopes.split("+"):
        assert reply.status == 200
        assert not reply.result.get("isError")
        return
    assert reply.status == 403
    challenge = reply.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert "resource_metadata=" in challenge
    # What it holds stands there as well: a client that asks for the new one alone loses the rest.
    wanted = {f"memory:{scope}" for scope in (*scopes.split("+"), needed)}
    assert set(challenge.partition('scope="')[2].split('"')[0].split()) == wanted
    assert state() == before


def test_a_grant_reads_a_resource_only_with_the_scope_to_read(
    dispatcher_db: None, memory: UUID, granted: Any
) -> None:
    body = message("resources/read", {"uri": f"memory://memories/{memory}"})
    assert granted("write").ask(body).status == 403
    assert TEXT in granted("read").ask(body).result["contents"][0]["text"]


def test_an_access_token_that_does_not_hold_is_refused(
    dispatcher_db: None, memory: UUID, granted: Any
) -> None:
    reply = granted("nothing").call("list_entities")
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]


def test_a_resource_is_read_by_who_may_read_the_memory(
    office: Office, memory: UUID, key: Any
) -> None:
    def read(credential: str, id_: UUID) -> str:
        body = message("resources/read", {"uri": f"memory://memories/{id_}"})
        reply = Agent(credential).ask(body).messages[-1]
        return str(reply.get("result") or reply["error"]["message"])

    assert TEXT in read(key("read"), memory)
    assert "lacks the scope" in read(key("write"), memory)
    nowhere = UUID("00000000-0000-4000-8000-000000000000")
    for outside in (
        key(project=office.other_project),
        key(entity_limit={"user_id": ["zoe"]}),
    ):
        foreign, missing = read(outside, memory), read(outside, nowhere)
        assert foreign.replace(str(memory), str(nowhere)) == missing
