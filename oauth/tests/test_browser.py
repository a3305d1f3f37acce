"""Consent and connected apps in a real browser: how they look, and that they work there."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from mem0dash.tests.browser import EMAIL, PASSWORD, Site, Visit
from oauth.tests.asking import VERIFIER, address

pytestmark = [pytest.mark.browser, pytest.mark.long]

REDIRECT: Final = "https://claude.ai/api/mcp/auth_callback"
HOSTILE: Final = '<img src=x onerror="document.title=1">Claude\u202e \u2066Code'
LONG: Final = "An-app-with-a-name-as-long-as-apps-may-choose-" + "x" * 54


class _App(BaseHTTPRequestHandler):
    """An app that waits on this machine for its code."""

    def do_GET(self) -> None:
        got = self.server.got  # type: ignore[attr-defined]
        got.append((self.path, self.headers.get("Referer")))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"Connected. You can close this window.")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def app() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _App)
    server.got = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def register(site: Site, name: str, *uris: str) -> str:
    """Registers an app at the running server; its client_id."""
    body = {
        "client_name": name,
        "redirect_uris": list(uris) or [REDIRECT],
        "token_endpoint_auth_method": "none",
    }
    answer = httpx.post(f"{site.server.url}/oauth/register", json=body, trust_env=False)
    return str(answer.json()["client_id"])


def open_consent(visit: Visit, client_id: str, **changes: str | None) -> Any:
    """The consent page in a window; its answer."""
    changes.setdefault("redirect_uri", REDIRECT)
    return visit.go(address(client_id, **changes))


ALL = "memory:read memory:write memory:review"
MORE_PROJECTS = """
from accounts.models import Project
Project.objects.get_or_create(slug="support", defaults=dict(name="Support desk"))
"""
GRANTS = """
from datetime import timedelta
from django.utils import timezone
from accounts.models import Account, Project
from oauth.models import AppGrant, Application, AccessToken, RefreshToken
now, project = timezone.now(), Project.objects.get(slug="default")
account = Account.objects.get()
def grant(name, uri, scopes, days, used=None, address=""):
    app = Application.objects.create(name=name, redirect_uris=uri, client_type="public",
        authorization_grant_type="authorization-code")
    made = AppGrant.objects.create(account=account, project=project, application=app,
        scopes=scopes, resource="x", session_epoch=account.session_epoch)
    token = AccessToken.objects.create(app_grant=made, application=app, user=account, token="",
        token_checksum=f"{{made.id.hex}}", scope=scopes, expires=now)
    RefreshToken.objects.create(app_grant=made, application=app, user=account, token="",
        token_checksum=f"{{made.id.hex}}", access_token=token)
    AppGrant.objects.filter(pk=made.pk).update(created_at=now - timedelta(days=days),
        last_used_at=used and now - used, last_address=address)
every = "memory:read memory:write memory:review"
grant("Claude Code", "http://localhost/callback http://127.0.0.1/callback",
      "memory:read memory:write", 88, timedelta(minutes=2), "192.168.1.24")
grant("Claude", "https://claude.ai/api/mcp/auth_callback", "memory:read memory:write", 50,
      timedelta(days=1), "160.79.104.10")
grant("VS Code", "https://vscode.dev/redirect http://127.0.0.1/", "memory:read", 0)
grant("n8n", "https://n8n.lindqvist.example/cb", every, 121, timedelta(days=41), "2001:db8::7")
grant({name!r}, "cursor://anysphere.cursor-mcp/cb", every, 40)
"""


def test_the_consent_page(site: Site) -> None:
    app = register(site, "Claude")
    site.check_page(address(app, redirect_uri=REDIRECT), "consent")
    local = register(site, LONG, "http://localhost/callback")
    site.server.manage("shell", "--verbosity", "0", "--command", MORE_PROJECTS)
    path = address(local, scope=ALL, redirect_uri="http://localhost:52771/callback")
    site.check_page(path, "consent-local")


def test_a_consent_page_with_an_error_and_one_for_an_unknown_app(site: Site) -> None:
    app = register(site, HOSTILE)

    def allow_nothing(page: Any) -> None:
        for box in page.get_by_role("checkbox").all():
            box.uncheck()
        page.get_by_role("button", name="Allow").click()
        page.get_by_text("Choose at least one permission").wait_for()
        assert page.title() == "Allow access · mem0dash"

    site.check_page(address(app, redirect_uri=REDIRECT), "consent-nothing", act=allow_nothing)
    site.check_page(address("nobody"), "consent-refused", status=400)


@pytest.mark.parametrize("scripts", [True, False])
def test_allowing_and_denying_lead_back_to_the_app(site: Site, app: Any, scripts: bool) -> None:
    uri = f"http://127.0.0.1:{app.server_port}/callback"
    client_id = register(site, "Claude Code", "http://127.0.0.1/callback")
    visit = site.visit(java_script_enabled=scripts)
    page = visit.page
    # Signing in comes first, and leads back to the request.
    open_consent(visit, client_id, redirect_uri=uri)
    page.get_by_label("E-mail address").fill(EMAIL)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="asks for access").wait_for()
    page.get_by_role("button", name="Deny").click()
    page.get_by_text("Connected. You can close this window.").wait_for()
    assert "error=access_denied" in app.got[0][0]
    open_consent(visit, client_id, redirect_uri=uri)
    page.get_by_role("checkbox", name="Write memories").uncheck()
    page.get_by_role("button", name="Allow").click()
    page.wait_for_url("**/callback?code=**")
    path, referrer = next(one for one in app.got if "code=" in one[0])
    assert "iss=" in path
    # The app learns nothing of the page that it came from.
    assert referrer is None
    code = parse_qs(urlsplit(path).query)["code"][0]
    tokens = httpx.post(
        f"{site.server.url}/oauth/token",
        data={
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": code,
            "redirect_uri": uri,
            "code_verifier": VERIFIER,
        },
        trust_env=False,
    )
    assert tokens.json()["scope"] == "memory:read"
    visit.context.close()


def test_another_account_can_be_used(site: Site) -> None:
    app = register(site, "Claude")
    visit = site.visit(storage_state=site.signed_in())
    open_consent(visit, app)
    visit.page.get_by_role("button", name="Use another account").click()
    visit.page.wait_for_url("**/login?next=**")
    visit.page.get_by_label("E-mail address").fill(EMAIL)
    visit.page.get_by_label("Password").fill(PASSWORD)
    visit.page.get_by_role("button", name="Sign in").click()
    visit.page.get_by_role("heading", name="asks for access").wait_for()
    assert not visit.complaints
    site._state = None


def test_the_page_without_apps(unclaimed_site: Site) -> None:
    unclaimed_site.server.bootstrap()
    unclaimed_site.check_page("/dashboard/apps", "apps-empty")


def test_the_list_of_apps_and_revoking_one(site: Site) -> None:
    name = HOSTILE
    site.server.manage("shell", "--verbosity", "0", "--command", GRANTS.format(name=name))
    site.check_page("/dashboard/apps", "apps")
    visit = site.visit(width=390, storage_state=site.signed_in(), java_script_enabled=False)
    visit.go("/dashboard/apps")
    visit.page.get_by_role("button", name="Revoke VS Code of").click()
    visit.page.get_by_text("“VS Code” has lost its access").wait_for()
    assert visit.page.get_by_role("button", name="Revoke VS Code of").count() == 0
