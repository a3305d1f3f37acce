"""A request as WSGI knows it, with odd inputs; the whole of it is read back by Django."""

from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIRequest

from core.http.wsgi_environ import build_environ

pytestmark = pytest.mark.one_form


def environ(body: bytes = b"", **changes: Any) -> dict[str, Any]:
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.1", 4000),
        "server": ("127.0.0.1", 8000),
    }
    return build_environ({**scope, **changes}, body)


def test_a_request_is_read_back_as_it_was_sent() -> None:
    headers = [(b"host", b"memory.example"), (b"content-type", b"text/plain; charset=utf-8")]
    made = environ(
        b"tea", method="POST", path="/a b", query_string=b"x=1&y=%C3%BC", headers=headers
    )
    request = WSGIRequest(made)
    assert (request.method, request.path, request.GET["y"]) == ("POST", "/a b", "ü")
    assert (request.content_type, request.body) == ("text/plain", b"tea")
    assert (request.scheme, request.get_host()) == ("http", "memory.example")
    assert (made["REMOTE_ADDR"], made["REMOTE_PORT"]) == ("192.0.2.1", "4000")
    assert (made["SERVER_NAME"], made["SERVER_PORT"]) == ("127.0.0.1", "8000")
    assert made["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert "HTTP_CONTENT_TYPE" not in made


def test_equal_headers_are_joined_and_cookies_stay_apart() -> None:
    headers = [
        *((b"x-forwarded-for", b"203.0.113.7"), (b"x-forwarded-for", b"198.51.100.9")),
        *((b"cookie", b"a=1; b=2"), (b"cookie", b"c=3")),
    ]
    made = environ(headers=headers)
    assert made["HTTP_X_FORWARDED_FOR"] == "203.0.113.7,198.51.100.9"
    assert WSGIRequest(made).COOKIES == {"a": "1", "b": "2", "c": "3"}


def test_a_header_with_an_underscore_never_stands_for_one_with_a_hyphen() -> None:
    headers = [(b"x_forwarded_for", b"203.0.113.7"), (b"content_type", b"x"), (b"x_api-key", b"y")]
    assert not [
        name for name in environ(headers=headers) if name.startswith(("HTTP_", "CONTENT_T"))
    ]


@pytest.mark.parametrize("path", ["/ü", "/日本語/😀", "/a%2Fb", "//", ""])
def test_a_path_of_any_letters_arrives(path: str) -> None:
    assert WSGIRequest(environ(path=path)).path_info == (path or "/")


def test_bytes_that_are_no_text_arrive_in_headers_and_queries() -> None:
    made = environ(headers=[(b"user-agent", b"\xff\xfe")], query_string=b"q=\xc3\xbc")
    assert made["HTTP_USER_AGENT"] == "\xff\xfe"
    assert WSGIRequest(made).GET["q"] == "ü"


@pytest.mark.parametrize(
    ("root", "path", "told"),
    [
        ("", "/a/b", ("", "/a/b")),
        ("/a", "/a/b", ("/a", "/b")),
        ("/a", "/a", ("/a", "")),
        ("/a", "/ab", ("/a", "/ab")),
        ("/ü", "/ü/b", ("/\xc3\xbc", "/b")),
    ],
)
def test_the_path_begins_below_the_root(root: str, path: str, told: tuple[str, str]) -> None:
    made = environ(root_path=root, path=path)
    assert (made["SCRIPT_NAME"], made["PATH_INFO"]) == told


@pytest.mark.parametrize(
    "framing", [[], [(b"transfer-encoding", b"chunked")], [(b"content-length", b"99")]]
)
def test_the_length_is_that_of_the_body(framing: list[tuple[bytes, bytes]]) -> None:
    made = environ(b"four", headers=framing)
    assert made["CONTENT_LENGTH"] == "4" and made["wsgi.input"].read() == b"four"
    assert "HTTP_TRANSFER_ENCODING" not in made and "HTTP_CONTENT_LENGTH" not in made


@pytest.mark.parametrize(
    ("server", "told"), [(None, ("localhost", "80")), (("/run/socket", None), ("/run/socket", "0"))]
)
def test_a_request_without_client_and_server_has_an_environment(server: Any, told: Any) -> None:
    made = environ(client=None, server=server)
    assert (made["SERVER_NAME"], made["SERVER_PORT"]) == told
    assert "REMOTE_ADDR" not in made
