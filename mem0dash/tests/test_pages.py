"""What holds for every page: headers, cookies, forged forms, errors, and that the API is apart."""

import ast
import hashlib
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as configured
from django.core.management import call_command
from django.db import OperationalError
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.urls import path as route
from django.utils import timezone

from accounts.models import Account, InstanceState
from accounts.services import complete_setup
from accounts.tests.signing import sign_in
from accounts.web import page
from core.errors import ConflictError, NotFoundError, PermissionDeniedError
from core.pages.answers import is_page
from mem0dash.tests.test_middleware import assert_secure
from mem0dash.tests.test_rights import ROUTES, TABLE
from mem0dash.urls import urlpatterns as served
from memories.models import Memory

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parent.parent.parent
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PAGES = [
    (method, TABLE[name, method].path.format(id=UUID(int=1)))
    for name, method, _ in ROUTES
    if is_page(RequestFactory().get(TABLE[name, method].path))
]


@pytest.fixture
def strict(engine: Any, alice: Account) -> Client:
    """Alice's client, which minds form tokens as the server does."""
    InstanceState.objects.update(owner_created_at=timezone.now())
    complete_setup()
    return sign_in(alice, enforce_csrf_checks=True, raise_request_exception=False)


def token(client: Client) -> str:
    found = re.search(
        r'csrfmiddlewaretoken" value="([^"]+)"', client.get("/dashboard").content.decode()
    )
    assert found is not None
    return found[1]


def assert_page(answer: Any, status: int, told: str) -> None:
    assert answer.status_code == status
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    said = " ".join(answer.content.decode().split())
    assert told in said, said[-2000:]
    assert answer["Cache-Control"] == "no-store"


# --- Headers and cookies -------------------------------------------------------------------------


def test_every_page_and_every_error_has_the_headers(strict: Client) -> None:
    for what, status, answer in (
        ("a page", 200, strict.get("/dashboard")),
        ("sign-in", 200, Client().get("/login")),
        ("to sign-in", 302, Client().get("/dashboard")),
        ("a missing page", 404, strict.get("/dashboard/nowhere")),
        ("a missing path", 404, strict.get("/nowhere", headers=HTML)),
        ("a wrong method", 405, strict.get("/dashboard/theme")),
        ("a forged form", 403, strict.post("/dashboard/theme")),
        ("an unknown host", 400, strict.get("/dashboard", headers={"Host": "evil.example"})),
        ("a style", 200, strict.get("/static/css/base.css")),
        ("a script", 200, strict.get("/static/app.js")),
        ("a font", 200, strict.get("/static/vendor/inter-latin-wght-normal.woff2")),
        ("a missing file", 404, strict.get("/static/nothing.css", headers=HTML)),
    ):
        assert answer.status_code == status, what
        answer.cookies.clear()
        assert_secure(answer, what)


def test_pages_are_kept_by_nobody_and_tell_what_they_depend_on(strict: Client) -> None:
    answer = strict.get("/dashboard")
    assert answer["Cache-Control"] == "no-store"
    assert {"Cookie", "HX-Request"} <= set(answer["Vary"].split(", "))
    assert "Accept" in strict.get("/")["Vary"]


@pytest.mark.parametrize("secure", [True, False])
def test_cookies_are_for_this_server_alone(
    engine: Any, alice: Account, settings: Any, secure: bool
) -> None:
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = secure
    alice.set_password("correct horse battery")
    alice.save()
    InstanceState.objects.update(owner_created_at=timezone.now())
    client = Client()
    client.get("/login")
    body = {"email": alice.email, "password": "correct horse battery"}
    assert client.post("/login", body).status_code == 302
    client.post("/dashboard/theme", {"theme": "dark"})
    assert set(client.cookies) == {
        "mem0dash_session",
        "mem0dash_csrf",
        "mem0dash_known",
        "mem0dash_theme",
    }
    for name, cookie in client.cookies.items():
        assert cookie["httponly"] is True, name
        assert cookie["samesite"] == "Lax", name
        assert bool(cookie["secure"]) is secure, name
        assert cookie["domain"] == "", name


def test_no_page_has_script_or_style_of_its_own(strict: Client) -> None:
    for answer in (
        strict.get("/dashboard"),
        Client().get("/login"),
        strict.get("/dashboard/x"),
    ):
        text = answer.content.decode()
        assert not re.search(r"<script(?![^>]* src=)", text)
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|hx-on|hx-vals=.js:", text)
        assert not re.search(r'(src|href)="(https?:)?//', text)
        assert "{#" not in text and "{%" not in text


# --- Forged forms, and the API apart --------------------------------------------------------------


def test_every_change_on_a_page_needs_its_token(strict: Client, client: Any) -> None:
    changing = [path for method, path in PAGES if method != "GET"]
    assert {"/login", "/logout", "/dashboard/theme"} <= set(changing)
    right = token(strict)
    for path in changing:
        for body in (
            {},
            {"csrfmiddlewaretoken": "x" * 64},
            {"csrfmiddlewaretoken": right[:-1] + "_"},
        ):
            assert_page(strict.post(path, body), 403, "This form has expired")
        # Another site's form, with a token that was got from here.
        answer = strict.post(
            path, {"csrfmiddlewaretoken": right}, headers={"Origin": "https://evil.example"}
        )
        assert_page(answer, 403, "This form came from another address")
        for method in (strict.put, strict.patch, strict.delete):
            assert method(path).status_code == 403
    assert strict.get("/dashboard").status_code == 200, "still signed in"
    answer = strict.post("/dashboard/theme", {"csrfmiddlewaretoken": right, "theme": "dark"})
    assert answer.status_code == 302


def test_behind_a_proxy_forms_of_the_public_url_are_accepted(strict: Client, settings: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://memory.example.org"]
    body = {"csrfmiddlewaretoken": token(strict), "theme": "dark"}
    for origin, status in (("https://memory.example.org", 302), ("http://memory.example.org", 403)):
        answer = strict.post("/dashboard/theme", body, headers={"Origin": origin})
        assert answer.status_code == status, origin


@pytest.mark.parametrize(
    ("headers", "public_url", "told"),
    [
        ({"Origin": "https://a.example"}, "", ["https://a.example", "http://testserver", "sets"]),
        ({"Origin": "null"}, "", ["null", "http://testserver", "in a window of its own"]),
        (
            {"Origin": "http://memory.example.org"},
            "https://memory.example.org/mem",
            ["http://memory.example.org", "https://memory.example.org", "changes"],
        ),
    ],
)
def test_a_form_from_another_address_is_told_both(
    strict: Client, settings: Any, headers: dict[str, str], public_url: str, told: list[str]
) -> None:
    settings.PUBLIC_URL = public_url
    settings.CSRF_TRUSTED_ORIGINS = [public_url.removesuffix("/mem")] if public_url else []
    body = {"csrfmiddlewaretoken": token(strict), "theme": "dark"}
    answer = strict.post("/dashboard/theme", body, headers=headers)
    for words in told:
        assert_page(answer, 403, words)
    assert ("PUBLIC_URL" in answer.content.decode()) == (headers["Origin"] != "null")
    assert "has expired" not in answer.content.decode()
    htmx = strict.post("/dashboard/theme", body, headers={**headers, "HX-Request": "true"})
    assert f"This form came from {headers['Origin']}" in htmx.content.decode()


def test_what_a_browser_says_of_its_address_is_inert(strict: Client) -> None:
    for hostile in ("https://<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'):
        for headers in ({"Origin": hostile}, {"Origin": hostile, "HX-Request": "true"}):
            text = strict.post("/logout", headers=headers).content.decode()
            assert "<script>alert" not in text and "<img" not in text
    long = strict.post("/logout", headers={"Origin": "https://" + "x" * 5000})
    assert "x" * 300 not in long.content.decode()


def test_without_tls_the_refused_form_names_the_address_that_works(
    strict: Client, settings: Any
) -> None:
    settings.CSRF_COOKIE_SECURE = True
    settings.PUBLIC_URL = "https://memory.example.org"
    answer = strict.post("/logout")
    assert_page(answer, 403, "https://memory.example.org")


def test_a_session_of_the_pages_opens_nothing_of_the_api(
    strict: Client, api: Any, settings: Any
) -> None:
    settings.RATE_LIMIT_AUTH_FAILURES = 0  # here they all come from one address
    id_ = api.add("Alice drinks tea")
    for name, method, _ in ROUTES:
        right = TABLE[name, method]
        if right.needs in {"public", "page"}:
            continue
        call = getattr(strict, method.lower())
        path = right.path.format(id=id_)
        body = {"data": right.body, "content_type": "application/json"} if right.body else {}
        for headers in ({}, {"Referer": "http://testserver/dashboard"}, HTML):
            answer = call(path, **body, headers=headers)
            assert answer.status_code == 401, (method, path)
            assert not answer.cookies
            assert "Cookie" not in answer.get("Vary", "")
    assert Memory.objects.get(id=id_).rev == 1


def test_the_api_needs_no_token(api: Any, key: Any) -> None:
    strict = Client(enforce_csrf_checks=True)
    body = {"messages": [{"role": "user", "content": "tea"}], "user_id": "alice"}
    headers = {"X-API-Key": key(), "Origin": "https://evil.example"}
    answer = strict.post("/memories", body, "application/json", headers=headers)
    assert answer.status_code == 200
    assert not answer.cookies


def test_the_other_origin_that_may_call_the_api_reads_no_page(
    strict: Client, settings: Any
) -> None:
    settings.DASHBOARD_ORIGIN = "https://dashboard.example"
    for answer in (
        strict.get("/dashboard", headers={"Origin": "https://dashboard.example"}),
        strict.options(
            "/dashboard",
            headers={
                "Origin": "https://dashboard.example",
                "Access-Control-Request-Method": "POST",
            },
        ),
    ):
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]


def test_a_host_that_is_not_known_gets_no_page(strict: Client) -> None:
    for headers in ({"Host": "evil.example"}, {"Host": "evil.example", **HTML}):
        answer = strict.get("/dashboard", headers=headers)
        assert_page(answer, 400, "add it to ALLOWED_HOSTS")
        assert "evil.example" not in answer.content.decode()
    answer = strict.get("/dashboard", headers={"X-Forwarded-Host": "evil.example"})
    assert "evil.example" not in answer.content.decode()


def test_addresses_on_pages_are_the_public_urls(strict: Client, settings: Any) -> None:
    settings.PUBLIC_URL = "https://memory.example.org/mem"
    text = strict.get("/dashboard").content.decode()
    assert "curl https://memory.example.org/mem/memories" in text
    settings.PUBLIC_URL = ""
    text = strict.get("/dashboard", headers={"Host": "192.168.1.20:8000"}).content.decode()
    assert "curl http://192.168.1.20:8000/memories" in text


def test_tls_is_believed_of_a_trusted_proxy_alone(strict: Client, settings: Any) -> None:
    import ipaddress

    settings.SECURE_HSTS_SECONDS = 60
    strict = Client()
    headers = {"X-Forwarded-Proto": "https"}
    assert "Strict-Transport-Security" not in strict.get("/login", headers=headers)
    settings.TRUSTED_PROXIES = [ipaddress.ip_network("127.0.0.1")]
    assert strict.get("/login", headers=headers)["Strict-Transport-Security"] == "max-age=60"
    assert "Strict-Transport-Security" not in strict.get("/login")


# --- Errors --------------------------------------------------------------------------------------


def raising(error: Exception) -> Any:
    def view(request: Any) -> Any:
        raise error

    return page(view)


urlpatterns = [
    route("dashboard/denied", raising(PermissionDeniedError("Ask <b>Alice</b>."))),
    route("dashboard/missing", raising(NotFoundError("No such memory."))),
    route("dashboard/changed", raising(ConflictError("Someone was faster."))),
    route("dashboard/database", raising(OperationalError("password=hunter2"))),
    route("dashboard/broken", raising(RuntimeError("secret detail"))),
    route("broken", raising(RuntimeError("secret detail"))),
    *served,
]
handler400 = "core.http.middleware.bad_request"
handler403 = "core.http.middleware.forbidden"
handler404 = "core.http.middleware.not_found"
handler500 = "core.http.middleware.server_error"


def test_errors_of_services_are_pages_and_sentences_for_htmx(strict: Client, settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    for name, status, told in (
        ("denied", 403, "Ask &lt;b&gt;Alice&lt;/b&gt;."),
        ("missing", 404, "No such memory."),
        ("changed", 409, "Someone was faster."),
        ("database", 502, "The database does not answer."),
        ("broken", 500, "Something went wrong here"),
    ):
        path = f"/dashboard/{name}"
        answer = strict.get(path, headers={"X-Request-ID": "trace-1"})
        assert_page(answer, status, told)
        assert "trace-1" in answer.content.decode()
        assert b"hunter2" not in answer.content and b"secret detail" not in answer.content
        assert_secure(answer, name)
        partial = strict.get(path, headers={"HX-Request": "true"})
        assert_page(partial, status, told)
        assert b"<html" not in partial.content and b"data-error" in partial.content


def test_people_get_pages_and_clients_json(strict: Client, client: Any, settings: Any) -> None:
    for headers, kind in (
        (HTML, "text/html"),
        ({}, "application/json"),
        ({"Accept": "*/*"}, "application/json"),
        ({"Accept": "application/json, text/plain, */*"}, "application/json"),
    ):
        assert client.get("/nowhere", headers=headers)["Content-Type"].startswith(kind)
        assert client.get("/static/x", headers=headers)["Content-Type"].startswith(kind)
    assert client.get("/dashboard/nowhere")["Content-Type"].startswith("text/html")
    # Routes of the API answer as they always do.
    assert client.get("/memories", headers=HTML)["Content-Type"] == "application/json"
    assert client.get("/dashboards").json() == {"detail": "Not Found"}
    assert client.get("/loginx").json() == {"detail": "Not Found"}


def test_the_root_sends_people_to_the_dashboard_and_clients_to_the_documentation(
    client: Any, db: None
) -> None:
    for headers, where in ((HTML, "/dashboard"), ({}, "/docs"), ({"Accept": "*/*"}, "/docs")):
        answer = client.get("/", headers=headers)
        assert (answer.status_code, answer["Location"]) == (307, where)


@pytest.mark.parametrize("name", ["400", "403", "404", "500", "csrf", "error"])
def test_error_pages_need_neither_database_nor_context(name: str) -> None:
    text = render_to_string(f"{name}.html", {})
    assert "<h1>" in text and "</html>" in text


def test_a_database_that_is_away_gives_a_page(strict: Client, monkeypatch: Any) -> None:
    from django.contrib.sessions.backends.db import SessionStore

    def away(self: Any) -> Any:
        raise OperationalError("no route to host")

    monkeypatch.setattr(SessionStore, "load", away)
    answer = strict.get("/dashboard")
    assert_page(answer, 502, "The database does not answer.")
    assert b"no route" not in answer.content


# --- Below a path --------------------------------------------------------------------------------


def test_below_a_path_links_and_cookies_stay_there(tmp_path: Path) -> None:
    """A server whose PUBLIC_URL has a path, behind a proxy that takes it off and one that does
    not, and asked directly."""
    import httpx

    from prove.server import Server

    environment = {"PUBLIC_URL": "http://memory.example.org/mem"}
    server = Server(tmp_path / "data", environment)
    try:
        server.start()
        server.bootstrap()
        with httpx.Client(base_url=server.url, trust_env=False, follow_redirects=True) as http:
            for before in ("", "/mem"):
                answer = http.get(f"{before}/dashboard")
                assert answer.url.path == "/mem/login"
                assert 'href="/mem/static/css/base.css"' in answer.text
            assert http.get("/mem/static/css/base.css").status_code == 200
            assert http.get("/static/css/base.css").status_code == 200
            assert http.get("/mem/healthz").json()["ok"] is True
            found = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', answer.text)
            assert found is not None
            body = {
                "email": "owner@example.org",
                "password": "long enough",
                "next": "/mem/dashboard",
            }
            answer = http.post("/mem/login", data={**body, "csrfmiddlewaretoken": found[1]})
            assert (answer.status_code, answer.url.path) == (200, "/mem/dashboard")
            assert "curl http://memory.example.org/mem/memories" in answer.text
            assert {cookie.path for cookie in http.cookies.jar} == {"/mem/", "/mem/login"}
            assert http.get("/memx/dashboard").status_code == 404
            # What "Try it out" calls is below the path as well, from wherever the page was opened.
            for before in ("", "/mem"):
                assert 'href="/mem/openapi.json"' in http.get(f"{before}/docs").text
                read = http.get(f"{before}/openapi.json")
                relative, public = (row["url"] for row in read.json()["servers"])
                assert public == environment["PUBLIC_URL"]
                assert {path.split("/")[1] for path in read.json()["paths"]}.isdisjoint({"mem"})
                called = str(read.url.join(relative)) + "/entities"
                assert called == f"{server.url}/mem/entities"
                assert http.get(called).status_code == 401
    finally:
        server.kill9()


# --- What is served ------------------------------------------------------------------------------


def test_what_is_vendored_is_what_is_written_down() -> None:
    folder = ROOT / "static" / "vendor"
    rows = re.findall(
        r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", (folder / "VENDORED.md").read_text(), re.M
    )
    listed = {(folder / name).resolve() for name, _ in rows}
    for name, digest in rows:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    others = {"VENDORED.md", "refresh.sh"}
    assert {p for p in folder.iterdir() if p.name not in others} <= listed
    assert "sourceMappingURL" not in (folder / "tabler.min.css").read_text()


def test_what_is_compressed_ahead_is_the_same() -> None:
    import gzip

    import brotli

    plain = ROOT / "static" / "vendor" / "tabler.min.css"
    assert gzip.decompress(plain.with_suffix(".css.gz").read_bytes()) == plain.read_bytes()
    assert brotli.decompress(plain.with_suffix(".css.br").read_bytes()) == plain.read_bytes()
    answer = Client().get("/static/vendor/tabler.min.css", headers={"Accept-Encoding": "gzip, br"})
    assert answer["Content-Encoding"] == "br"


def test_every_icon_that_is_used_is_there() -> None:
    there = set(re.findall(r'<symbol id="([^"]+)"', (ROOT / "static" / "icons.svg").read_text()))
    used: set[str] = set()
    for file in (ROOT / "templates").rglob("*.html"):
        used |= set(re.findall(r'{% icon "([^"]+)"', file.read_text()))
        used |= set(re.findall(r'_blank.html" with name="([^"]+)"', file.read_text()))
    for file in (ROOT / "dashboard").glob("*.py"):
        words = {
            n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)
        }
        used |= {w for w in words if w in there}
    assert len(used) > 15
    assert used <= there


def test_static_files_can_be_collected_and_named_by_their_content(
    settings: Any, tmp_path: Path
) -> None:
    """Where an operator prefers that: every address in the styles has its file."""
    settings.STATIC_ROOT = str(tmp_path)
    storage = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    settings.STORAGES = {**configured.STORAGES, "staticfiles": {"BACKEND": storage}}
    call_command("collectstatic", interactive=False, verbosity=0)
    assert list(tmp_path.glob("vendor/tabler.min.*.css"))
