"""Calls that take long: what is told meanwhile, and what ends them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from accounts.models import Account, Membership, Role
from apikeys.models import ApiKey
from core.http import threads
from core.http.waiting import ProviderWait
from mem0dash import connector, identification
from mem0dash.tests.agents import HANDSHAKE, MODERN, Agent, Reply, aside, call_of, until
from memories.mcp import working
from memories.models import Memory
from memories.tests.providing import use_llm
from operations import request_log
from operations.models import RequestLog

LLM = threads.threads_for(ProviderWait.LLM, "POST")
ERAS = [HANDSHAKE, MODERN]


@pytest.fixture
def agent(
    dispatcher_db: None,
    engine: Any,
    provider: Any,
    key: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Agent]:
    """An agent of a server with a language model, which looks often what goes on."""
    use_llm(engine, provider)
    monkeypatch.setattr(connector, "RECHECK_SECONDS", 0.05)
    monkeypatch.setattr(working, "PROGRESS_SECONDS", 0.05)
    yield Agent(key())
    # What a call has begun goes on in its thread.
    asyncio.run(until(lambda: not threads.answering))


def add(**meta: Any) -> dict[str, Any]:
    body = call_of("add_memory", content="Alice likes tea.", user_id="alice")
    body["params"]["_meta"] = meta
    return body


@pytest.mark.parametrize("era", ERAS)
def test_a_slow_add_says_that_it_goes_on_to_who_asked_for_it(
    agent: Agent, provider: Any, era: str
) -> None:
    held = provider.chat.hold()
    agent.era = era

    async def meanwhile(reply: Reply) -> None:
        await until(lambda: b"notifications/progress" in reply.body)
        held.release()

    reply = agent.ask(add(progressToken="t1"), meanwhile=meanwhile)
    *told, last = reply.messages
    assert {message["params"]["progressToken"] for message in told} == {"t1"}
    times = [message["params"]["progress"] for message in told]
    assert times == sorted(times)
    assert last["result"]["structuredContent"]["stored"] == "extracted"


@pytest.mark.parametrize("era", ERAS)
def test_a_slow_add_is_answered_though_nobody_asked_for_news(
    agent: Agent, provider: Any, era: str
) -> None:
    held = provider.chat.hold()
    agent.era = era

    async def meanwhile(reply: Reply) -> None:
        await until(held.entered.is_set)
        held.release()

    assert agent.ask(add(), meanwhile=meanwhile).found["results"][0]["event"] == "ADD"


def revoke(bob: Account) -> None:
    ApiKey.objects.filter(owner=bob).update(revoked_at=timezone.now())


def deactivate(bob: Account) -> None:
    Account.objects.filter(pk=bob.pk).update(is_active=False)


def demote(bob: Account) -> None:
    Membership.objects.filter(account=bob).update(role=Role.MEMBER)


def dismiss(bob: Account) -> None:
    Membership.objects.filter(account=bob).delete()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("happens", [revoke, deactivate, demote, dismiss])
def test_an_open_call_ends_with_its_credential(
    agent: Agent, provider: Any, key: Any, bob: Account, era: str, happens: Any
) -> None:
    Membership.objects.filter(account=bob).update(role=Role.REVIEWER)
    bobs = Agent(key("read", "write", "review", owner=bob), era)
    held = provider.chat.hold()

    async def meanwhile(reply: Reply) -> None:
        await until(lambda: held.entered.is_set() and (era == MODERN or reply.status))
        await aside(happens, bob)
        await until(lambda: reply.is_over)
        held.release()

    reply = bobs.ask(add(), meanwhile=meanwhile)
    if reply.status == 200:  # the stream had begun
        assert reply.error["message"] == connector.ENDED
    else:
        assert reply.status == 401
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]


def test_an_open_call_goes_on_while_nobody_can_ask_whether_its_credential_holds(
    agent: Agent, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, asked = provider.chat.hold(), []

    def away(request: Any) -> Any:
        asked.append(request)
        raise OperationalError("the database is away")

    async def meanwhile(reply: Reply) -> None:
        await until(held.entered.is_set)
        monkeypatch.setattr(identification, "identify", away)
        await until(lambda: len(asked) > 2)
        held.release()

    assert agent.ask(add(), meanwhile=meanwhile).found["results"]


@pytest.mark.parametrize("era", ERAS)
def test_a_stop_tells_an_open_add_that_its_input_is_kept(
    agent: Agent, provider: Any, era: str
) -> None:
    held = provider.chat.hold()
    agent.era = era

    async def meanwhile(reply: Reply) -> None:
        await until(lambda: held.entered.is_set() and (era == MODERN or reply.status))
        reply.stop()
        await until(lambda: reply.is_over)
        held.release()

    reply = agent.ask(add(), meanwhile=meanwhile)
    if era == MODERN:
        assert (reply.status, reply.json["error_description"]) == (503, connector.KEPT)
    else:
        assert reply.error["message"] == connector.KEPT


def test_an_add_whose_client_hangs_up_is_stored_and_holds_no_place(
    agent: Agent, provider: Any, gathering: None
) -> None:
    held = provider.chat.hold()

    async def meanwhile(reply: Reply) -> None:
        await until(held.entered.is_set)
        reply.hang_up()
        await until(lambda: not LLM._taken)
        held.release()
        await until(Memory.objects.exists)
        await until(lambda: not LLM._abandoned)

    agent.era = MODERN
    assert not agent.ask(add(), meanwhile=meanwhile).status
    request_log.rows.write()
    assert RequestLog.objects.get(path="/mcp add_memory").status_code == 499


def test_while_adds_wait_for_the_language_model_reads_are_answered(
    agent: Agent, provider: Any
) -> None:
    held = provider.chat.hold()

    async def meanwhile(reply: Reply) -> None:
        await until(held.entered.is_set)
        read = await agent.asking(call_of("list_entities"), runs=False)
        assert read.found["results"] == []
        assert not reply.is_over
        held.release()

    assert agent.ask(add(), meanwhile=meanwhile).found["results"]


def test_where_too_many_wait_already_the_agent_is_told_to_wait(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LLM, "_taken", LLM._most)
    told = agent.ask(add()).failure
    assert "Nothing of this one is stored" in told
    assert "Wait 10 s." in told
    assert not Memory.objects.exists()
