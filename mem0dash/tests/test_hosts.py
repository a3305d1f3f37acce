"""Lists in the environment: what people write is understood, or refused in a sentence."""

import ipaddress
from typing import Any

import pytest

from core import env
from core.env import ConfigurationError
from core.http.hosts import Hosts, parse_host

pytestmark = pytest.mark.one_form

# As written, and as understood.
LISTS = {
    "a.example,b.example": ["a.example", "b.example"],
    " a.example , b.example ,": ["a.example", "b.example"],
    "a.example b.example": ["a.example", "b.example"],
    "a.example;b.example": ["a.example", "b.example"],
    "a.example\nb.example\n": ["a.example", "b.example"],
    '["a.example","b.example"]': ["a.example", "b.example"],
    '["a.example", "b.example"]': ["a.example", "b.example"],
    "['a.example', 'b.example']": ["a.example", "b.example"],
    "[a.example]": ["a.example"],
    '"a.example"': ["a.example"],
    "'a.example','b.example'": ["a.example", "b.example"],
    "[]": [],
    "": [],
    "[::1]": ["[::1]"],
    "[::1],[::2]": ["[::1]", "[::2]"],
    "[::1]:8000": ["[::1]:8000"],
}


@pytest.mark.parametrize(("written", "words"), LISTS.items())
def test_a_list_is_understood_however_it_is_written(
    monkeypatch: Any, written: str, words: list[str]
) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", written)
    assert env.list_of("ALLOWED_HOSTS") == words


@pytest.mark.parametrize(
    "written", ['"a.example', '["a"', "a'b", "{a}", '{"a": 1}', '""', "“a”", "‘a’, b"]
)
def test_a_list_that_is_not_whole_is_refused(monkeypatch: Any, written: str) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", written)
    with pytest.raises(ConfigurationError, match="ALLOWED_HOSTS"):
        [parse_host("ALLOWED_HOSTS", word) for word in env.list_of("ALLOWED_HOSTS")]


# As written, hosts that it lets in, hosts that it does not.
HOSTS: dict[str, tuple[list[str], list[str]]] = {
    "a.example": (["a.example", "A.EXAMPLE:80", "a.example."], ["b.a.example", "example"]),
    "A.Example.": (["a.example"], ["a.example.."]),
    "https://a.example": (["a.example"], ["https"]),
    "https://a.example:8443/path?x#y": (["a.example:8443", "a.example"], ["path"]),
    "a.example:8000": (["a.example:8000", "a.example"], []),
    "nas": (["nas", "nas:8000"], ["nas.evil.example"]),
    "my_host": (["my_host"], []),
    ".example.org": (["example.org", "a.example.org", "b.a.example.org"], ["badexample.org"]),
    "*.example.org": (["a.example.org"], ["example.org", "badexample.org"]),
    "*": (["anything.example"], []),
    "münchen.example": (["xn--mnchen-3ya.example"], ["munchen.example"]),
    "::1": (["[::1]"], []),
    "[2001:db8::1]:8000": (["[2001:db8::1]:8000"], []),
    "http://[2001:db8::1]:8000": (["[2001:db8::1]"], []),
    "192.0.2.7:8000": (["192.0.2.7"], []),
}


@pytest.mark.parametrize("written", HOSTS)
def test_a_host_is_understood_however_it_is_written(written: str) -> None:
    accepted, refused = HOSTS[written]
    hosts = Hosts([parse_host("ALLOWED_HOSTS", written)])
    assert [hosts.accept(host) for host in accepted] == [True] * len(accepted), accepted
    assert [hosts.accept(host) for host in refused] == [False] * len(refused), refused


@pytest.mark.parametrize(
    "written",
    [
        *(
            "a/b",
            "ftp://a.example",
            "https://",
            "https://u:p@a.example",
            "a.*",
            "*a.example",
            "a..b",
        ),
        *("-", "a:b", "a:8000000", "a*", "**", "?", "a.example/", "[::1", "https://[::1"),
    ],
)
def test_what_names_no_host_is_refused_in_one_sentence(written: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_host("ALLOWED_HOSTS", written)
    told = str(caught.value)
    assert told.startswith("ALLOWED_HOSTS ") and told.endswith(".") and "\n" not in told


def test_an_address_stays_an_address() -> None:
    ipaddress.ip_address(parse_host("ALLOWED_HOSTS", "[::1]"))
