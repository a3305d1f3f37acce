"""The page Connect: who sees it, what it says of each client, and what can be copied."""

import json
import re
import tomllib
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from accounts.tests.signing import sign_in
from dashboard.connect import views
from dashboard.connect.clients import CLIENTS, client_named
from dashboard.connect.guides import KEY, Guide, Step, guides
from dashboard.connect.packs import PACKS
from oauth.models import AppGrant
from oauth.tests.flow import make_app
from operations.models import RequestLog

pytestmark = [pytest.mark.one_form, pytest.mark.django_db]

PAGE = "/dashboard/connect"
HTMX = {"HX-Request": "true"}
BASE = "https://memory.example.org"


def called(account: Account | None, client: str, *, minutes: float = 0, **fields: Any) -> None:
    values: dict[str, Any] = {"status_code": 200, "auth_type": "api_key", "path": "/mcp", **fields}
    RequestLog.objects.create(
        project=Project.objects.get(slug="default"),
        account=account,
        client=client,
        method="POST",
        latency_ms=1,
        created_at=timezone.now() - timedelta(minutes=minutes),
        **values,
    )


def states(answer: Any) -> dict[str, str]:
    """What the page says of each client, by its id."""
    assert answer.status_code == 200, answer.content[:300]
    found = re.findall(
        r'id="state-([\w-]+)"[^>]*>\s*<span class="state \w+">([^<]*)<', answer.content.decode()
    )
    assert len(found) == len(CLIENTS)
    return dict(found)


def poll(client: Client, *connected: str) -> Any:
    return client.get(PAGE, {"connected": connected}, headers=HTMX)


def test_at_first_nothing_is_connected(signed_in: Client) -> None:
    answer = signed_in.get(PAGE)
    assert set(states(answer).values()) == {"Not connected"}
    text = answer.content.decode()
    assert 'id="mcp-url">http://testserver/mcp<' in text
    assert text.count("btn-primary") - text.count("btn-primary skip") == 1


@pytest.mark.parametrize("role", [Role.MEMBER, Role.REVIEWER, Role.ADMIN])
def test_every_member_sees_the_page_and_the_calls_of_nobody_else(
    signed_in: Client, project: Project, alice: Account, role: Role
) -> None:
    called(alice, "cursor/2")
    account = Account.objects.create(email="m@example.org", name="M")
    Membership.objects.create(project=project, account=account, role=role)
    theirs = sign_in(account)
    assert set(states(theirs.get(PAGE)).values()) == {"Not connected"}
    called(account, "n8n/1.9", auth_type="bearer")
    assert {k for k, v in states(theirs.get(PAGE)).items() if v == "Connected"} == {"n8n"}
    assert states(signed_in.get(PAGE))["cursor"] == "Connected"


def test_whoever_is_not_signed_in_is_sent_to_sign_in(signed_in: Client) -> None:
    for headers in ({}, HTMX):
        answer = Client().get(PAGE, headers=headers)
        assert b"client-state" not in answer.content
    assert Client().get(PAGE).headers["Location"].startswith("/login")
    assert Client().post(f"{PAGE}/copied", {"client": "cursor"}).status_code == 302


def test_a_client_is_awaited_from_the_moment_its_snippet_is_copied(signed_in: Client) -> None:
    answer = signed_in.post(f"{PAGE}/copied", {"client": "vs-code"}, headers=HTMX)
    assert states(answer)["vs-code"] == "Waiting for the first call"
    told = states(signed_in.get(PAGE))
    assert told.pop("vs-code") == "Waiting for the first call"
    assert set(told.values()) == {"Not connected"}


def test_the_first_call_is_told_once(signed_in: Client, alice: Account) -> None:
    signed_in.post(f"{PAGE}/copied", {"client": "vs-code"}, headers=HTMX)
    called(alice, "Visual Studio Code/1.120.0")
    answer = poll(signed_in)
    assert states(answer)["vs-code"] == "Connected"
    assert "VS Code is" in answer.content.decode() and b"connect-news" in answer.content
    assert b'name="connected" value="vs-code"' in answer.content
    assert b"connect-news" not in poll(signed_in, "vs-code").content


def test_what_is_connected_when_the_page_is_opened_is_no_news(
    signed_in: Client, alice: Account
) -> None:
    called(alice, "curl/8.5", minutes=3 * 1440)
    text = signed_in.get(PAGE).content.decode()
    assert 'name="connected" value="curl"' in text and "3 days ago" in text
    assert "is\n  connected" not in text and "hx-swap-oob" not in text


def test_a_client_that_is_connected_is_not_awaited_again(signed_in: Client, alice: Account) -> None:
    called(alice, "cursor/2", minutes=1440)
    answer = signed_in.post(f"{PAGE}/copied", {"client": "cursor"}, headers=HTMX)
    assert states(answer)["cursor"] == "Connected"


def test_waiting_ends_after_an_hour(signed_in: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in.post(f"{PAGE}/copied", {"client": "n8n"}, headers=HTMX)
    monkeypatch.setattr(views, "PATIENCE_SECONDS", 0)
    assert states(signed_in.get(PAGE))["n8n"] == "Not connected"


@pytest.mark.parametrize("client", ["", "netscape", "<img src=x>", "curl\0"])
def test_a_client_that_is_not_on_the_page_cannot_be_awaited(signed_in: Client, client: str) -> None:
    answer = signed_in.post(f"{PAGE}/copied", {"client": client}, headers=HTMX)
    assert answer.status_code == 400 and b"<img" not in answer.content
    assert set(states(signed_in.get(PAGE)).values()) == {"Not connected"}


def test_without_a_script_copying_leads_back_to_the_page(signed_in: Client) -> None:
    answer = signed_in.post(f"{PAGE}/copied", {"client": "n8n"})
    assert answer.status_code == 302 and answer.headers["Location"] == PAGE
    assert signed_in.get(f"{PAGE}/copied").status_code == 405


def test_hostile_names_of_clients_stay_out_of_the_page(signed_in: Client, alice: Account) -> None:
    called(alice, "<img src=x onerror=alert(1)> cursor \u202e")
    called(alice, "<script>alert(2)</script>")
    answer = poll(signed_in)
    assert states(answer)["cursor"] == "Connected"
    assert b"onerror" not in answer.content and b"<script" not in answer.content
    hostile = poll(signed_in, '"><script>alert(3)</script>')
    assert b"alert(3)" not in hostile.content


def test_the_page_says_who_cannot_reach_a_server_without_a_public_address(
    signed_in: Client, settings: Any
) -> None:
    assert "need a public HTTPS address" in signed_in.get(PAGE).content.decode()
    settings.PUBLIC_URL = "https://memory.example.org/memory"
    text = signed_in.get(PAGE).content.decode()
    assert "https://memory.example.org/memory/mcp" in text and "testserver" not in text
    assert "need a public HTTPS address" not in text


@pytest.mark.parametrize(
    ("name", "callback", "known"),
    [
        ("Visual Studio Code", "http://127.0.0.1:33418/", "vs-code"),
        ("Claude Code (mem0dash)", "http://localhost:51234/callback", "claude-code"),
        ("Connector", "https://claude.ai/api/mcp/auth_callback", "claude"),
        ("", "https://chatgpt.com/connector/oauth/abc", "chatgpt"),
        ("Notes", "https://notes.example/callback", None),
    ],
)
def test_an_app_that_signed_in_is_known_by_what_it_registered(
    signed_in: Client, alice: Account, project: Project, name: str, callback: str, known: str | None
) -> None:
    app = make_app(Client(), client_name=name or ..., redirect_uris=[callback])
    app.callback = callback
    app.connect(alice, project)
    assert set(states(signed_in.get(PAGE)).values()) == {"Not connected"}
    AppGrant.objects.update(last_used_at=timezone.now(), last_client="node")
    told = states(signed_in.get(PAGE))
    assert {k for k, v in told.items() if v == "Connected"} == ({known} if known else set())


def test_the_apps_of_others_are_not_told(
    signed_in: Client, alice: Account, bob: Account, project: Project
) -> None:
    app = make_app(Client(), client_name="Cursor")
    app.connect(bob, project)
    AppGrant.objects.update(last_used_at=timezone.now())
    assert set(states(signed_in.get(PAGE)).values()) == {"Not connected"}
    theirs = sign_in(bob)
    assert states(theirs.get(PAGE))["cursor"] == "Connected"


@pytest.mark.parametrize(
    ("name", "client"),
    [
        ("claude-code/2.1.332 (cli)", "claude-code"),
        ("claude-code (mem0dash plugin)", "claude-code"),
        ("Claude Code (mem0dash)", "claude-code"),
        ("Claude-User", "claude"),
        ("claude-ai/0.1.0 (via mcp-remote 0.1.31)", "claude"),
        ("Claude", "claude"),
        ("openai-mcp/1.0.0", "chatgpt"),
        ("codex-mcp-client/0.60", "chatgpt"),
        ("Visual Studio Code/1.120.0", "vs-code"),
        ("VsCode/1.110 (darwin arm64)", "vs-code"),
        ("Visual Studio Code - Insiders", "vs-code"),
        ("Cursor/2.0.1 (darwin arm64)", "cursor"),
        ("cursor-vscode", "cursor"),
        ("opencode/1.4.0", "opencode"),
        ("n8n/1.9", "n8n"),
        ("@n8n/n8n-nodes-langchain.mcpClientTool", "n8n"),
        ("curl/8.5.0", "curl"),
        ("python-httpx/0.28", None),
        ("not-curl", None),
        ("precursor", None),
        ("", None),
    ],
)
def test_clients_are_known_by_what_they_call_themselves(name: str, client: str | None) -> None:
    found = client_named(name)
    assert (found.id if found else None) == client


def steps() -> list[tuple[str, Step]]:
    return [
        (id_, step)
        for id_, guide in guides(BASE).items()
        for way in guide.ways
        for step in way.steps
    ]


def test_every_client_has_a_guide_with_the_address_of_this_server() -> None:
    written = guides(BASE)
    assert list(written) == [client.id for client in CLIENTS]
    for id_, guide in written.items():
        address = BASE if id_ == "curl" else f"{BASE}/mcp"
        for way in guide.ways:
            text = " ".join(step.snippet for step in way.steps)
            assert address in text and f"{BASE}/mcp/" not in text, (id_, way.title)


def test_what_goes_into_files_can_be_read_as_such() -> None:
    read = {"json": json.loads, "toml": tomllib.loads}
    kinds = [step.kind for _, step in steps() if step.kind and read[step.kind](step.snippet)]
    assert kinds.count("json") >= 7 and kinds.count("toml") == 1


def config(client: str, way: int) -> Any:
    guide: Guide = guides(BASE)[client]
    [step] = [step for step in guide.ways[way].steps if step.kind]
    return tomllib.loads(step.snippet) if step.kind == "toml" else json.loads(step.snippet)


def test_the_files_have_the_forms_that_their_clients_read() -> None:
    url = f"{BASE}/mcp"
    assert config("vs-code", 0) == {"servers": {"mem0dash": {"type": "http", "url": url}}}
    keyed = config("vs-code", 1)
    [question] = keyed["inputs"]
    assert keyed["servers"]["mem0dash"]["headers"] == {
        "Authorization": f"Bearer ${{input:{question['id']}}}"
    }
    assert config("cursor", 0) == {"mcpServers": {"mem0dash": {"url": url}}}
    assert config("opencode", 0)["mcp"]["mem0dash"] == {
        "type": "remote",
        "url": url,
        "enabled": True,
    }
    assert config("chatgpt", 2)["mcp_servers"]["mem0dash"]["url"] == url
    bridge = config("claude", 1)["mcpServers"]["mem0dash"]
    assert bridge["command"] == "npx" and bridge["args"][1:3] == ["mcp-remote", url]
    assert "--allow-http" not in bridge["args"], "mcp-remote wants it for plain HTTP alone"


def test_no_snippet_has_a_key_in_it() -> None:
    keys = [found for _, step in steps() for found in re.findall(r"m0sk_\S*", step.snippet)]
    assert keys and all(key.rstrip("\"',") == KEY for key in keys)


def test_the_prompts_say_what_they_have_to(signed_in: Client) -> None:
    text = signed_in.get(PAGE).content.decode()
    for pack in PACKS:
        assert pack.title in text and pack.text[:40] in text
        assert pack.text.isascii(), f"{pack.id} is copied into anything"
    [instructions] = [pack.text for pack in PACKS if pack.id == "memory-instructions"]
    order = (
        "Recall first",
        "Save lasting facts",
        "Update instead of adding",
        "Never store secrets",
    )
    assert [part in instructions for part in order] == [True] * 4
