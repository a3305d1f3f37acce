"""What every request passes: security headers, the host check, the caller's address."""

import ipaddress
import logging
from typing import Any

import pytest
from django.test import Client

from core.http.middleware import CONTENT_SECURITY_POLICY

pytestmark = pytest.mark.one_form

STATIC = "/static/drf_spectacular_sidecar/swagger-ui-dist/favicon-32x32.png"


def assert_secure(answer: Any, what: str) -> None:
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy, what
    assert "frame-ancestors 'none'" in policy, what
    assert "base-uri 'none'" in policy, what
    assert "unsafe-eval" not in policy and "*" not in policy.split("img-src")[0], what
    assert answer.get("X-Content-Type-Options") == "nosniff", what
    assert answer.get("X-Frame-Options") == "DENY", what
    assert answer.get("Referrer-Policy") == "same-origin", what
    assert answer.get("X-Request-ID"), what
    assert not answer.cookies, what
    assert "Access-Control-Allow-Credentials" not in answer, what


def test_every_kind_of_answer_has_the_security_headers(api: Any, client: Any) -> None:
    api.client.raise_request_exception = False
    for what, status, answer in (
        ("a memory route", 200, api.get("/memories?user_id=alice")),
        ("no credential", 401, client.get("/memories")),
        ("a wrong credential", 401, client.get("/memories", headers={"X-API-Key": "m0sk_x"})),
        ("an unknown path", 404, client.get("/nowhere")),
        ("a trailing slash", 307, api.get("/memories/")),
        ("a wrong method", 405, api("PATCH", "/memories")),
        ("a wrong method of a plain route", 405, client.post("/healthz")),
        ("a bad request", 400, api.delete("/memories")),
        ("a body that does not fit", 422, api.post("/memories", {})),
        ("a redirect", 307, client.get("/")),
        ("health", 200, client.get("/healthz")),
        ("the documentation", 200, client.get("/docs")),
        ("the schema", 200, client.get("/openapi.json")),
        ("a static file", 200, client.get(STATIC)),
        ("a missing static file", 404, client.get("/static/nothing.js")),
        ("an unknown host", 400, client.get("/healthz", headers={"Host": "evil.example"})),
    ):
        assert answer.status_code == status, what
        assert_secure(answer, what)


def test_a_failing_engine_and_an_unforeseen_error_have_them_as_well(
    api: Any, embedder: Any, settings: Any, client: Any
) -> None:
    embedder.error = RuntimeError("down")
    assert_secure(api.post("/search", {"query": "x", "user_id": "alice"}), "502")
    settings.ROOT_URLCONF = __name__
    client.raise_request_exception = False
    answer = client.get("/broken", headers={"X-Request-ID": "trace-1"})
    assert answer.status_code == 500
    assert answer.json() == {
        "detail": "Internal server error.",
        "code": "internal_error",
        "request_id": "trace-1",
    }
    assert_secure(answer, "500")


def broken(request: Any) -> None:
    raise RuntimeError("secret detail")


def urls() -> list[Any]:
    from django.urls import path

    return [path("broken", broken)]


urlpatterns = urls()
handler500 = "core.http.middleware.server_error"


def test_a_wrong_method_of_a_plain_route_is_405_in_json(client: Any, engine: Any) -> None:
    for path in ("/", "/healthz"):
        answer = client.post(path)
        assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"}), path


def test_hsts_is_sent_over_tls_alone(settings: Any, db: None) -> None:
    settings.SECURE_HSTS_SECONDS = 31_536_000
    client = Client()
    assert client.get("/", secure=True)["Strict-Transport-Security"] == "max-age=31536000"
    assert "Strict-Transport-Security" not in client.get("/")


def test_nothing_is_shared_with_another_origin(api: Any, client: Any) -> None:
    for answer in (
        api.get("/entities", headers={"Origin": "https://evil.example"}),
        client.options(
            "/memories",
            headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"},
        ),
    ):
        assert "Access-Control-Allow-Origin" not in answer


DASHBOARD = "https://dashboard.example"


def preflight(client: Any, origin: str, path: str = "/api-keys") -> Any:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization, x-project",
    }
    return client.options(path, headers=headers)


def test_the_pages_of_the_dashboard_may_call_the_api(client: Any, settings: Any, db: None) -> None:
    settings.DASHBOARD_ORIGIN = DASHBOARD
    asked = preflight(client, DASHBOARD)
    assert (asked.status_code, asked.content) == (200, b"OK")
    assert asked["Access-Control-Allow-Headers"] == "authorization, x-project"
    assert "DELETE" in asked["Access-Control-Allow-Methods"]
    assert asked["Access-Control-Max-Age"] == "600"
    for answer in (
        asked,
        client.get("/auth/setup-status", headers={"Origin": DASHBOARD}),
        client.get("/entities", headers={"Origin": DASHBOARD}),
        client.get("/nowhere", headers={"Origin": DASHBOARD}),
    ):
        assert answer["Access-Control-Allow-Origin"] == DASHBOARD
        assert answer["Access-Control-Allow-Credentials"] == "true"
        assert "Origin" in answer["Vary"]
        assert answer.get("X-Request-ID")
        assert "default-src 'none'" in answer["Content-Security-Policy"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://dashboard.example",
        "https://dashboard.example.evil.example",
        "https://dashboard.example:8443",
        "https://dashboard.example/",
        "null",
        "*",
        "",
    ],
)
def test_nobody_else_is_let_in_beside_the_dashboard(
    client: Any, settings: Any, db: None, origin: str
) -> None:
    settings.DASHBOARD_ORIGIN = DASHBOARD
    for answer in (
        preflight(client, origin),
        client.get("/auth/setup-status", headers={"Origin": origin}),
    ):
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]
        assert "Origin" in answer["Vary"]  # a cache must not give this answer to the dashboard
    settings.DASHBOARD_ORIGIN = ""
    assert "Access-Control-Allow-Origin" not in preflight(client, origin)


def test_header_names_of_a_preflight_are_names(client: Any, settings: Any, db: None) -> None:
    settings.DASHBOARD_ORIGIN = DASHBOARD
    headers = {
        "Origin": DASHBOARD,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "a; b=<script>",
    }
    answer = client.options("/entities", headers=headers)
    assert answer.status_code == 200
    assert "Access-Control-Allow-Headers" not in answer


def test_a_preflight_that_is_refused_says_why(client: Any, settings: Any, db: None) -> None:
    for configured in ("", DASHBOARD):
        settings.DASHBOARD_ORIGIN = configured
        answer = preflight(client, "https://other.example")
        assert answer.status_code == 403
        assert "https://other.example may not call this API" in answer.json()["detail"]
        assert "DASHBOARD_URL" in answer.json()["detail"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.1/evil",
        "127.0.0.1, evil.example",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::1",
        "::1",
        "localhost:port",
        "localhost:123456",
        "löcalhost",
        "x" * 500,
        "*",
        ".",
        " ",
    ],
)
def test_a_host_that_is_not_known_is_refused_before_anything_else(client: Any, host: str) -> None:
    answer = client.get("/memories", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.json() == {"detail": "This host name is not allowed; add it to ALLOWED_HOSTS."}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST",
        "app.localhost:3000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "192.168.1.20:8000",
        "10.0.0.1",
        "localhost.",
        "localhost.:8000",
        "127.0.0.1.",
        "[::1]",
        "[::1]:8000",
        "[2001:db8::1]",
    ],
)
def test_loopback_and_addresses_in_digits_are_always_accepted(
    client: Any, db: None, host: str
) -> None:
    assert client.get("/memories", headers={"Host": host}).status_code == 401


def test_named_hosts_are_accepted_and_their_neighbours_are_not(settings: Any, db: None) -> None:
    settings.NAMED_HOSTS = ["Memory.Example.org", ".lan"]
    client = Client()
    for host in ("memory.example.org", "MEMORY.example.ORG:443", "nas.lan", "a.b.lan"):
        assert client.get("/memories", headers={"Host": host}).status_code == 401, host
    for host in ("example.org", "x.memory.example.org", "notlan", "testserver", "lan.evil"):
        assert client.get("/memories", headers={"Host": host}).status_code == 400, host


def test_the_names_of_container_networks_are_known_where_a_key_is_needed(
    settings: Any, db: None
) -> None:
    """compose.yaml's services, and what a container calls the machine that it runs on."""
    for host in ("mem0dash:8000", "web:8000", "MEM0DASH", "web.", "host.docker.internal:8000"):
        answer = Client().get("/memories", headers={"Host": host})
        assert answer.status_code == 401, host
    for host in ("mem0dash.evil.example", "evil-mem0dash", "docker.internal", "postgres"):
        assert Client().get("/memories", headers={"Host": host}).status_code == 400, host
    settings.AUTH_DISABLED = True
    for host in ("mem0dash:8000", "web", "host.docker.internal"):
        assert Client().get("/memories", headers={"Host": host}).status_code == 400, host


def test_every_name_is_accepted_where_the_operator_says_so(settings: Any, db: None) -> None:
    settings.NAMED_HOSTS = ["*"]
    client = Client()
    for host in ("evil.example", "a.b.c:1", "nas"):
        assert client.get("/memories", headers={"Host": host}).status_code == 401, host
    for host in ("löcalhost", "a/b", "a, b", "a@b"):
        assert client.get("/memories", headers={"Host": host}).status_code == 400, host


def test_a_forwarded_host_counts_for_nothing(client: Any, db: None) -> None:
    headers = {"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    answer = client.get("/", headers=headers)
    assert answer.status_code == 307
    assert answer["Location"] == "/docs"


@pytest.fixture
def address(client: Any, caplog: Any) -> Any:
    """`address(peer, forwarded)`: the caller's address as the access log has it."""
    caplog.set_level(logging.INFO, logger="mem0dash.access")

    def ask(peer: str, forwarded: str | None = None, **headers: str) -> str:
        caplog.clear()
        if forwarded is not None:
            headers["X-Forwarded-For"] = forwarded
        client.get("/nowhere", headers=headers, REMOTE_ADDR=peer)
        [record] = [r for r in caplog.records if r.name == "mem0dash.access"]
        return str(record.address)

    return ask


def test_forwarded_addresses_are_ignored_unless_a_trusted_proxy_sends_them(
    address: Any, settings: Any
) -> None:
    assert address("203.0.113.9", "198.51.100.7") == "203.0.113.9"
    settings.TRUSTED_PROXIES = [ipaddress.ip_network("10.0.0.0/8")]
    assert address("203.0.113.9", "198.51.100.7") == "203.0.113.9"
    assert address("10.1.2.3", "198.51.100.7") == "198.51.100.7"
    assert address("10.1.2.3") == "10.1.2.3"
    assert address("203.0.113.9", "10.1.2.3") == "203.0.113.9"


def test_a_caller_cannot_write_its_own_address(address: Any, settings: Any) -> None:
    """Proxies append: what stands left of the first untrusted hop is the caller's invention."""
    settings.TRUSTED_PROXIES = [
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("2001:db8::/32"),
    ]
    assert address("10.1.2.3", "127.0.0.1, 198.51.100.7") == "198.51.100.7"
    assert address("10.1.2.3", "1.1.1.1, 198.51.100.7, 10.9.9.9") == "198.51.100.7"
    assert address("2001:db8::5", "198.51.100.7") == "198.51.100.7"
    assert address("10.1.2.3", " , ") == "10.1.2.3"
    assert address("10.1.2.3", "198.51.100.7", Forwarded="for=1.1.1.1") == "198.51.100.7"
    assert address("10.1.2.3", None, Forwarded="for=1.1.1.1") == "10.1.2.3"
    assert address("10.1.2.3", None, **{"X-Real-IP": "1.1.1.1"}) == "10.1.2.3"


def test_the_policy_allows_no_inline_script_or_style() -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY


@pytest.mark.parametrize(
    ("path", "posted"),
    [
        ("/login", {f"field{n}": "x" for n in range(1001)}),
        (f"/memories?{'&'.join(['user_id=a'] * 1001)}", None),
        (f"/login?{'&'.join(['next=a'] * 1001)}", None),
    ],
)
def test_what_has_too_many_fields_is_refused_in_words_and_without_a_traceback(
    path: str, posted: Any, client: Client, db: None, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get(path) if posted is None else client.post(path, posted)
    assert answer.status_code == 400
    assert "There are too many fields: at most 1,000 are read." in answer.content.decode()
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_form_that_cannot_be_read_is_refused_in_words(
    client: Client, db: None, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.post("/login", b"--x", content_type="multipart/form-data; boundary=é")
    assert answer.status_code == 400
    assert "This form cannot be read" in answer.content.decode()
    assert [record for record in caplog.records if record.exc_info] == []
