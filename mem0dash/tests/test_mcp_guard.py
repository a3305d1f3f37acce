"""What stands before the tools: hosts, origins, methods, bodies, credentials and their limits."""

import asyncio
import gc
import ipaddress
import json
import logging
from typing import Any

import pytest
from django.db import connection, connections

from accounts.models import Account
from apikeys import usage
from apikeys.models import ApiKey
from mem0dash.tests.agents import HANDSHAKE, MODERN, Agent, Reply, call_of, message
from operations import request_log
from operations.models import RequestLog

ERAS = ("2025-03-26", "2025-06-18", HANDSHAKE, MODERN)
HELLO = {
    "protocolVersion": HANDSHAKE,
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "1"},
}


@pytest.fixture
def agent(dispatcher_db: None, engine: Any, key: Any) -> Agent:
    return Agent(key())


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
def test_both_eras_are_answered_at_both_addresses(agent: Agent, era: str, path: str) -> None:
    agent.era = era
    tools = agent.ask(message("tools/list"), path=path)
    assert tools.status == 200
    assert "location" not in tools.headers
    assert {"search_memories", "add_memory"} <= {tool["name"] for tool in tools.result["tools"]}


def test_a_client_shakes_hands_and_gets_no_session(agent: Agent) -> None:
    reply = agent.ask(message("initialize", HELLO))
    assert reply.result["serverInfo"]["name"] == "mem0-server"
    assert "Search it before you answer" in reply.result["instructions"]
    assert "mcp-session-id" not in reply.headers


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Token", "x-api-key"])
def test_a_key_opens_it_in_every_way_that_clients_send_one(
    dispatcher_db: None, engine: Any, key: Any, scheme: str
) -> None:
    headers = {scheme: key()} if "-" in scheme else {"authorization": f"{scheme} {key()}"}
    assert Agent(**headers).call("list_entities").found == {"results": [], "has_more": False}


def test_a_static_key_chooses_its_project(
    dispatcher_db: None, engine: Any, other_project: Any, settings: Any
) -> None:
    settings.ADMIN_API_KEY = "the operator's own key"
    agent = Agent(settings.ADMIN_API_KEY, x_project="other")
    agent.call("add_memory", content="Zoe likes tea", user_id="zoe")
    assert agent.call("list_entities").found["results"][0]["id"] == "zoe"
    assert Agent(settings.ADMIN_API_KEY).call("list_entities").found["results"] == []
    nowhere = Agent(settings.ADMIN_API_KEY, x_project="nowhere").call("list_entities")
    assert (nowhere.status, nowhere.json["error"]) == (404, "not_found")


def test_without_authentication_everybody_is_the_owner(
    dispatcher_db: None, engine: Any, settings: Any
) -> None:
    settings.AUTH_DISABLED = True
    assert Agent().call("list_entities").status == 200
    # But one who sends a credential wants it to hold.
    assert Agent("m0sk_" + "x" * 43).call("list_entities").status == 401


# --- Challenges ----------------------------------------------------------------------------------
def test_a_stranger_is_told_where_to_sign_in_and_of_no_error(agent: Agent) -> None:
    reply = Agent().call("list_entities")
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == (
        'Bearer resource_metadata="http://localhost/.well-known/oauth-protected-resource/mcp", '
        'scope="memory:read memory:write"'
    )
    assert reply.headers["cache-control"] == "no-store"


def test_behind_an_address_of_its_own_the_challenge_names_that(agent: Agent, settings: Any) -> None:
    settings.PUBLIC_URL = "https://memory.example.org/below"
    challenge = Agent().call("list_entities").headers["www-authenticate"]
    assert (
        'resource_metadata="https://memory.example.org/below'
        '/.well-known/oauth-protected-resource/mcp"' in challenge
    )


@pytest.mark.parametrize("credential", ["m0sk_" + "x" * 43, "a.b.c", "nonsense", ""])
def test_a_wrong_credential_is_told_that_it_is_wrong(agent: Agent, credential: str) -> None:
    reply = Agent(credential).call("list_entities")
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]


def test_who_guesses_has_to_wait_and_a_right_key_never_does(agent: Agent, settings: Any) -> None:
    settings.RATE_LIMIT_AUTH_FAILURES = 3
    guesses = [Agent("m0sk_" + "x" * 43).call("list_entities") for _ in range(5)]
    assert [guess.status for guess in guesses] == [401, 401, 401, 429, 429]
    assert int(guesses[-1].headers["retry-after"]) > 0
    assert agent.call("list_entities").status == 200
    # Who has no credential yet guesses nothing, and has to learn where to get one.
    assert Agent().call("list_entities").status == 401


# --- Hosts, origins, methods ---------------------------------------------------------------------
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "a b", "[::1"])
def test_a_host_that_is_not_this_servers_is_refused(agent: Agent, host: str) -> None:
    agent.headers["host"] = host
    assert agent.call("list_entities").status == 421


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "testserver"])
def test_its_own_hosts_are_served(agent: Agent, host: str) -> None:
    agent.headers["host"] = host
    assert agent.call("list_entities").status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil", "x"])
def test_a_page_of_another_origin_may_not_call(agent: Agent, origin: str) -> None:
    agent.headers["origin"] = origin
    for method in ("POST", "OPTIONS"):
        reply = agent.send(json.dumps(call_of("list_entities")).encode(), method=method)
        assert reply.status == 403
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("origin", ["http://localhost", "https://inspector.example"])
def test_a_page_that_may_call_can_read_the_challenge(
    agent: Agent, settings: Any, origin: str
) -> None:
    settings.MCP_ALLOWED_ORIGINS = {"https://inspector.example"}
    asked = Agent(origin=origin).send(method="OPTIONS")
    assert asked.status == 204
    assert asked.headers["access-control-allow-origin"] == origin
    assert "Authorization" in asked.headers["access-control-allow-headers"]
    refused = Agent(origin=origin).call("list_entities")
    assert refused.status == 401
    assert "WWW-Authenticate" in refused.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in refused.headers


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "HEAD"])
def test_it_keeps_no_sessions_to_be_read_or_ended(agent: Agent, method: str) -> None:
    reply = agent.send(method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "POST, OPTIONS")


def test_without_its_lifespan_it_says_that_it_is_not_there(agent: Agent) -> None:
    assert agent.ask(call_of("list_entities"), runs=False).status == 503


def test_every_answer_has_the_headers_that_all_answers_have(agent: Agent, settings: Any) -> None:
    for reply in (agent.call("list_entities"), Agent().call("list_entities"), agent.send(b"{")):
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["referrer-policy"] == "same-origin"
        assert len(reply.headers["x-request-id"]) == 8
        assert "strict-transport-security" not in reply.headers
    settings.SECURE_HSTS_SECONDS = 31_536_000
    settings.TRUSTED_PROXIES = [ipaddress.ip_network("127.0.0.1/32")]
    agent.headers["x-forwarded-proto"] = "https"
    assert "strict-transport-security" in agent.call("list_entities").headers
    assert (
        'metadata="https://localhost/'
        in (Agent(x_forwarded_proto="https").call("x").headers["www-authenticate"])
    )


# --- Bodies --------------------------------------------------------------------------------------
def nested(depth: int) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":' + (
        b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    )


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", nested(200), nested(100_000), b'{"a":"\\u0000"}', b"NaN"]
)
def test_what_cannot_be_read_is_a_parse_error(agent: Agent, era: str, body: bytes) -> None:
    reply = agent.send(body, headers={"mcp-protocol-version": era})
    assert reply.status == 400
    assert reply.error["code"] == -32700


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"{}", b'{"jsonrpc":"2.0"}'])
def test_what_is_no_message_is_refused(agent: Agent, era: str, body: bytes) -> None:
    reply = agent.send(body, headers={"mcp-protocol-version": era})
    assert reply.status == 400
    assert "error" in reply.messages[0]


@pytest.mark.parametrize("accept", ["text/html", "application/xml"])
@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_who_reads_neither_json_nor_streams_gets_406(agent: Agent, era: str, accept: str) -> None:
    agent.headers["accept"], agent.era = accept, era
    assert agent.call("list_entities").status == 406


def test_a_body_of_two_mebibytes_is_too_large(agent: Agent) -> None:
    big = call_of("add_memory", content="x" * 2 * 1024 * 1024)
    reply = agent.ask(big)
    assert (reply.status, reply.json["error"]) == (413, "invalid_request")
    assert "1 MiB" in reply.json["error_description"]


def test_a_stranger_and_a_wrong_key_send_no_body(agent: Agent) -> None:
    for key in (None, "m0sk_" + "x" * 43):
        assert Agent(key).send(b"x" * 8_000_000, headers={"expect": "100-continue"}).status == 401


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_a_tool_that_is_not_there_is_an_error_of_the_protocol(agent: Agent, era: str) -> None:
    agent.era = era
    reply = agent.call("delete_all_memories", user_id="alice")
    assert reply.error["code"] == -32602


# --- What is kept of a call ----------------------------------------------------------------------
def test_each_call_is_a_row_with_the_tool_and_its_caller(
    agent: Agent, gathering: None, alice: Account
) -> None:
    agent.headers |= {"x-request-id": "call-1", "user-agent": "claude-code/2.1"}
    reply = agent.call("get_memory", memory_id="nowhere")
    agent.ask(message("tools/list"))
    agent.ask(message("ping"))
    agent.ask(message("no/such/method"))
    assert reply.headers["x-request-id"] == "call-1"
    request_log.rows.write()
    found, listed, unknown = RequestLog.objects.order_by("created_at", "id")
    assert (found.path, found.status_code, found.auth_type) == (
        "/mcp get_memory",
        404,  # as REST would answer, though the protocol says 200
        "api_key",
    )
    assert (found.account_id, found.client) == (alice.id, "claude-code/2.1")
    assert found.key_prefix == ApiKey.objects.get().prefix
    assert found.request_id == "call-1"
    assert listed.path == "/mcp tools/list"
    assert unknown.path == "/mcp"  # what is unknown is written nowhere


def test_the_use_of_a_key_is_noted(agent: Agent, gathering: None) -> None:
    agent.call("list_entities")
    usage.uses.write()
    assert ApiKey.objects.get().last_used_at is not None


def test_no_credential_and_no_text_of_a_memory_is_logged(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        agent.call("add_memory", content="Alice likes cinnamon", user_id="alice")
        agent.call("search_memories", query="cinnamon", user_id="alice")
        agent.call("search_memories", query="cinnamon", mode="cinnamon")
        Agent("m0sk_" + "Z" * 43).call("list_entities")
    written = "\n".join(str(record.__dict__) for record in caplog.records)
    ours = [r for r in caplog.records if not r.name.startswith(("mcp", "asyncio", "sse_starlette"))]
    assert ours
    assert agent.headers["authorization"].split()[1] not in written
    assert "Z" * 43 not in written
    assert "cinnamon" not in "\n".join(str(record.__dict__) for record in ours)


# --- Many calls ----------------------------------------------------------------------------------
def test_handshakes_leave_nothing_behind(agent: Agent) -> None:
    left = []

    async def meanwhile(reply: Reply) -> None:
        for most in (20, 200):
            for _ in range(most):
                hello = await agent.asking(message("initialize", HELLO), runs=False)
                assert hello.status == 200
            await asyncio.sleep(0)
            gc.collect()
            left.append((len(asyncio.all_tasks()), sum(1 for _ in map(type, gc.get_objects()))))

    agent.ask(call_of("list_entities"), meanwhile=meanwhile)
    (few_tasks, few), (many_tasks, many) = left
    assert many_tasks <= few_tasks
    # What a handshake kept would be there 200 times.
    assert many - few < 200


def drop_connections() -> int:
    """Lets the database's server end all connections but this one; how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no server to lose")
def test_connections_that_the_database_dropped_are_made_again_on_the_next_call(
    agent: Agent,
) -> None:
    connections.settings["default"]["CONN_MAX_AGE"] = None  # as in a server
    agent.call("list_entities")
    assert drop_connections() > 0
    assert agent.call("list_entities").found["results"] == []
    drop_connections()
