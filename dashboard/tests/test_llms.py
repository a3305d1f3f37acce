"""llms.txt: what an agent needs to set itself up, for the host that it asked."""

import re
from typing import Any

import pytest
from django.test import Client

from dashboard.connect.clients import CLIENTS
from dashboard.connect.packs import instructions
from memories.mcp.tools import TOOLS

pytestmark = [pytest.mark.one_form, pytest.mark.django_db]


def text_of(host: str = "testserver") -> str:
    answer = Client().get("/llms.txt", headers={"host": host})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    return answer.content.decode()


def test_it_has_all_that_an_agent_needs() -> None:
    text = text_of()
    for needed in (
        "http://testserver/mcp (Streamable HTTP",
        "http://testserver/.well-known/oauth-protected-resource/mcp",
        "Authorization: Bearer KEY",
        "memory:read",
        "manage.py create_api_key",
        "search_memories",
        "review_memory",
        "http://testserver/claude-code",
        'curl http://testserver/search -H "X-API-Key: $MEM0_API_KEY"',
        instructions(),
        *(client.name for client in CLIENTS if client.id != "curl"),
    ):
        assert needed in text, needed


def test_it_names_every_tool_and_no_other() -> None:
    section = text_of().split("## Tools")[1].split("##")[0]
    assert set(re.findall(r"`(\w+)`[,:]", section)) == set(TOOLS)


def test_it_is_plain_text_without_a_secret_or_an_account(alice: Any, key: Any) -> None:
    made = key()
    text = text_of()
    assert made[:12] not in text and "alice" not in text.lower()
    assert re.findall(r"m0sk_(?!…|`)\S*", text) == []
    assert "&quot;" not in text and "&#x" not in text and "{{" not in text


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "[::1]:8000", "localhost", "192.168.1.20:9000"])
def test_it_speaks_of_the_host_that_was_asked(host: str) -> None:
    text = text_of(host)
    assert f"http://{host}/mcp" in text and "testserver" not in text


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "a b", 'x"; rm -rf /', "testserver@evil", "$(id)"],
)
def test_a_host_that_is_not_this_servers_is_refused(host: str) -> None:
    for path in ("/llms.txt", "/claude-code", "/claude-code/install.sh"):
        answer = Client().get(path, headers={"host": host})
        assert answer.status_code == 400
        assert b"evil" not in answer.content and b"rm -rf" not in answer.content


def test_a_public_address_counts_whatever_host_was_asked(settings: Any) -> None:
    settings.PUBLIC_URL = "https://memory.example.org/memory"
    text = text_of("127.0.0.1:8000")
    assert "https://memory.example.org/memory/mcp" in text and "127.0.0.1" not in text
    assert "no public HTTPS address" not in text


def test_a_forwarded_host_does_not_count() -> None:
    answer = Client().get("/llms.txt", headers={"X-Forwarded-Host": "evil.example"})
    assert b"evil.example" not in answer.content


def test_it_is_read_and_nothing_else() -> None:
    assert Client().post("/llms.txt").status_code == 405
