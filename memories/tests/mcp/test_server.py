"""The server as the SDK's own client meets it: tools, prompts, resources and errors."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError
from mcp import Client
from mcp.shared.exceptions import MCPError

from core.errors import IndexUnavailableError, StorageError
from core.principal import Principal
from memories import queries
from memories.mcp import caller, server
from memories.mcp.caller import Caller
from memories.mcp.tools import TOOLS
from memories.search import service as search

Talk = Callable[[Callable[[Client], Awaitable[Any]]], Any]


@pytest.fixture
def calling(dispatcher_db: None, engine: Any, owner: Principal) -> Caller:
    return Caller(replace(owner, project=replace(owner.project, default_user_id="alice")))


@pytest.fixture(params=["auto", "legacy"])
def talk(request: pytest.FixtureRequest, calling: Caller) -> Talk:
    """Lets a client of either era talk to the server, in the name of `calling`."""

    async def inside(said: Callable[[Client], Awaitable[Any]]) -> Any:
        caller.current.set(calling)
        async with Client(server.build(), mode=request.param) as client:
            return await said(client)

    return lambda said: asyncio.run(inside(said))


def test_a_client_finds_what_it_stored(talk: Talk) -> None:
    async def said(client: Client) -> Any:
        tools = (await client.list_tools()).tools
        await client.call_tool("add_memory", {"content": "Alice likes tea"})
        return tools, await client.call_tool("search_memories", {"query": "tea"})

    tools, found = talk(said)
    assert [tool.name for tool in tools] == list(TOOLS)
    assert found.structured_content["results"][0]["memory"] == "Alice likes tea"
    # The same as text, for clients from before structured content.
    assert json.loads(found.content[0].text) == found.structured_content


def test_prompts_teach_how_to_use_memory(talk: Talk) -> None:
    async def said(client: Client) -> Any:
        prompts = (await client.list_prompts()).prompts
        use = await client.get_prompt("use_memory")
        recall = await client.get_prompt("recall", {"topic": "green tea"})
        save = await client.get_prompt("save_session")
        return prompts, [shown.messages[0].content.text for shown in (use, recall, save)]

    prompts, (use, recall, save) = talk(said)
    assert {prompt.name for prompt in prompts} == {"use_memory", "recall", "save_session"}
    for word in ("search_memories", "update_memory", "Never store passwords"):
        assert word in use
    assert "green tea" in recall
    assert "{" not in use + recall + save


@pytest.mark.parametrize(
    ("name", "given"), [("recall", {}), ("recall", {"topic": " "}), ("nonsense", {})]
)
def test_a_prompt_that_is_not_there_or_lacks_its_topic_is_an_error(
    talk: Talk, name: str, given: dict[str, str]
) -> None:
    async def said(client: Client) -> None:
        with pytest.raises(MCPError):
            await client.get_prompt(name, given)

    talk(said)


def test_a_memory_and_a_search_are_resources(talk: Talk) -> None:
    async def said(client: Client) -> Any:
        templates = (await client.list_resource_templates()).resource_templates
        added = await client.call_tool("add_memory", {"content": "Alice likes green tea"})
        [row] = added.structured_content["results"]
        one = await client.read_resource(f"memory://memories/{row['id']}")
        found = await client.read_resource("memory://search/green%20tea")
        return templates, json.loads(one.contents[0].text), json.loads(found.contents[0].text)

    templates, one, found = talk(said)
    assert [t.uri_template for t in templates] == [
        "memory://memories/{memory_id}",
        "memory://search/{query}",
    ]
    assert one["memory"] == found["results"][0]["memory"] == "Alice likes green tea"


@pytest.mark.parametrize(
    "uri",
    [
        "memory://memories/nowhere",
        "memory://memories/00000000-0000-4000-8000-000000000000",
        "memory://memories/../../etc/passwd",
        "memory://else",
        "file:///etc/passwd",
        "memory://search/%00",
    ],
)
def test_a_resource_that_is_not_there_is_an_error(talk: Talk, uri: str) -> None:
    async def said(client: Client) -> None:
        with pytest.raises(MCPError) as refused:
            await client.read_resource(uri)
        assert refused.value.error.code == -32602

    talk(said)


# --- Errors --------------------------------------------------------------------------------------
def fails(talk: Talk, name: str, **given: Any) -> str:
    found = talk(lambda client: client.call_tool(name, given))
    assert found.is_error
    assert found.structured_content is None
    return str(found.content[0].text)


OUTAGES: dict[str, tuple[Exception, str, int]] = {
    "the database": (OperationalError("connection refused"), "no empty answer", 502),
    "the index": (IndexUnavailableError("gone"), "no empty answer", 502),
    "the disk": (StorageError("The disk is full."), "Reading and deleting still work", 507),
    "something unforeseen": (RuntimeError("a secret detail"), "the request id: test", 500),
}


@pytest.mark.parametrize("what", OUTAGES)
def test_an_outage_is_an_error_that_says_what_to_do(
    talk: Talk, calling: Caller, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    error, told, status = OUTAGES[what]

    def away(*args: Any, **rest: Any) -> Any:
        raise error

    monkeypatch.setattr(queries, "list_memories", away)
    monkeypatch.setattr(search, "search_memories", away)
    for name, given in (("list_memories", {}), ("search_memories", {"query": "tea"})):
        sentence = fails(talk, name, **given)
        assert told in sentence
        assert "secret" not in sentence
        assert "refused" not in sentence
        assert calling.status == status


def test_what_a_caller_may_not_do_names_the_permission(talk: Talk, calling: Caller) -> None:
    calling.principal = replace(calling.principal, scopes=frozenset({"read"}))
    sentence = fails(talk, "add_memory", content="tea")
    assert "lacks the scope 'write'" in sentence
    assert "tell the user which permission is missing" in sentence
    assert calling.status == 403


def test_a_missing_memory_leads_to_those_that_exist(talk: Talk) -> None:
    assert "Search or list memories" in fails(talk, "get_memory", memory_id="nowhere")
