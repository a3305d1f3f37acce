"""Calls with access tokens, as apps get them: what they open, and what ends them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from core.http import threads
from core.principal import Principal
from mem0dash import connector
from mem0dash.tests.agents import HANDSHAKE, MODERN, Agent, Reply, aside, until
from mem0dash.tests.test_mcp_open_calls import add
from memories.tests.providing import use_llm
from oauth import service as oauth
from oauth.models import AccessToken, AppGrant
from oauth.tests.flow import App, make_app
from operations import request_log
from operations.models import RequestLog


@pytest.fixture
def reviewer(bob: Account) -> Account:
    Membership.objects.filter(account=bob).update(role=Role.REVIEWER)
    return bob


@pytest.fixture
def app(dispatcher_db: None, engine: Any, reviewer: Account, project: Project) -> App:
    """An app that Bob, a reviewer, has let in."""
    made = make_app(Client())
    made.connect(reviewer, project)
    return made


def agent_of(app: App, era: str = HANDSHAKE) -> Agent:
    return Agent(app.tokens["access_token"], era, host="testserver")


def test_a_token_opens_what_was_granted_in_the_project_that_was_chosen(
    app: App, reviewer: Account, project: Project, other_project: Project
) -> None:
    agent = agent_of(app)
    agent.call("add_memory", content="Bob likes tea", user_id="bob")
    assert agent.call("list_entities").found["results"][0]["id"] == "bob"
    refused = agent.call("review_memory", memory_id="x", status="approved")
    assert refused.status == 403
    assert 'scope="memory:read memory:write memory:review"' in refused.headers["www-authenticate"]
    Membership.objects.create(account=reviewer, project=other_project, role=Role.MEMBER)
    app.connect(reviewer, other_project)
    # X-Project chooses nothing for an app: the person has chosen.
    elsewhere = agent_of(app)
    elsewhere.headers["x-project"] = "default"
    assert elsewhere.call("list_entities").found["results"] == []


def test_an_app_with_an_old_token_is_never_told_to_wait(app: App, settings: Any) -> None:
    settings.RATE_LIMIT_AUTH_FAILURES = 3
    AccessToken.objects.update(expires=timezone.now() - timedelta(seconds=1))
    replies = [agent_of(app).call("list_entities") for _ in range(5)]
    assert [reply.status for reply in replies] == [401] * 5
    assert 'error="invalid_token"' in replies[-1].headers["www-authenticate"]


def test_the_challenge_leads_to_the_documents_of_this_server(app: App) -> None:
    challenge = Agent(host="testserver").call("list_entities").headers["www-authenticate"]
    where = challenge.partition('resource_metadata="http://testserver')[2].partition('"')[0]
    document = app.client.get(where).json()
    assert document["resource"] == "http://testserver/mcp"
    assert document["authorization_servers"] == ["http://testserver"]


def expire(app: App, bob: Account, owner: Principal) -> None:
    AccessToken.objects.update(expires=timezone.now() - timedelta(seconds=1))


def revoke_token(app: App, bob: Account, owner: Principal) -> None:
    app.post(path="/oauth/revoke", token=app.tokens["access_token"])


def revoke_refresh_token(app: App, bob: Account, owner: Principal) -> None:
    app.post(path="/oauth/revoke", token=app.tokens["refresh_token"])


def revoke_app(app: App, bob: Account, owner: Principal) -> None:
    oauth.revoke_app(owner, AppGrant.objects.get().id)


def deactivate(app: App, bob: Account, owner: Principal) -> None:
    Account.objects.filter(pk=bob.pk).update(is_active=False)


def new_password(app: App, bob: Account, owner: Principal) -> None:
    Account.objects.filter(pk=bob.pk).update(session_epoch=bob.session_epoch + 1)


def dismiss(app: App, bob: Account, owner: Principal) -> None:
    Membership.objects.filter(account=bob).delete()


ENDS: list[Callable[[App, Account, Principal], None]] = [
    expire,
    revoke_token,
    revoke_refresh_token,
    revoke_app,
    deactivate,
    new_password,
    dismiss,
]


@pytest.mark.parametrize("happens", ENDS)
def test_a_token_that_has_ended_opens_nothing_on_the_next_call(
    app: App, reviewer: Account, owner: Principal, happens: Any
) -> None:
    agent = agent_of(app)
    assert agent.call("list_entities").status == 200
    happens(app, reviewer, owner)
    reply = agent.call("list_entities")
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
@pytest.mark.parametrize("happens", ENDS)
def test_an_open_call_ends_with_its_token(
    app: App,
    engine: Any,
    provider: Any,
    reviewer: Account,
    owner: Principal,
    monkeypatch: pytest.MonkeyPatch,
    era: str,
    happens: Any,
) -> None:
    use_llm(engine, provider)
    monkeypatch.setattr(connector, "RECHECK_SECONDS", 0.05)
    held = provider.chat.hold()

    async def meanwhile(reply: Reply) -> None:
        await until(lambda: held.entered.is_set() and (era == MODERN or reply.status))
        await aside(happens, app, reviewer, owner)
        await until(lambda: reply.is_over)
        held.release()
        await until(lambda: not threads.answering)

    reply = agent_of(app, era).ask(add(), meanwhile=meanwhile)
    if era == HANDSHAKE:
        assert reply.error["message"] == connector.ENDED
    else:
        assert reply.status == 401


def test_a_refresh_token_and_a_token_in_the_address_open_nothing(app: App) -> None:
    refresh = Agent(app.tokens["refresh_token"], host="testserver")
    assert refresh.call("list_entities").status == 401
    assert Agent(host="testserver").send(
        b"{}", path=f"/mcp?access_token={app.tokens['access_token']}"
    ).status in {401, 404}


def test_a_token_opens_no_route_of_rest(app: App) -> None:
    header = {"Authorization": f"Bearer {app.tokens['access_token']}"}
    assert app.client.get("/memories?user_id=bob", headers=header).status_code == 401
    assert app.client.get("/api/v1/memories?user_id=bob", headers=header).status_code == 401


def test_the_log_says_that_an_app_called_in_whose_name(
    app: App, gathering: None, reviewer: Account, owner: Principal
) -> None:
    agent = agent_of(app)
    agent.headers["user-agent"] = "claude-code/2.1"
    agent.call("list_entities")
    request_log.rows.write()
    row = RequestLog.objects.get(path="/mcp list_entities")
    assert (row.auth_type, row.account_id, row.client) == (
        "oauth",
        reviewer.id,
        "claude-code/2.1",
    )
    assert row.key_prefix == ""
