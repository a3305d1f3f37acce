"""Set-up without a browser, and a server that asks nobody to sign in."""

import io
import subprocess
import sys
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from accounts import setup
from accounts.models import Account, InstanceState
from accounts.services import ensure_owner
from core.env import ConfigurationError
from prove.environment import ROOT, clean_environment

pytestmark = pytest.mark.one_form

PASSWORD = "correct horse battery"


def test_with_sign_in_switched_off_no_page_leads_to_set_up(engine: Any, settings: Any) -> None:
    settings.AUTH_DISABLED = True
    answer = Client().get("/dashboard")
    assert answer.status_code == 200
    assert InstanceState.objects.get().setup_completed_at is None


def test_a_server_that_was_set_up_without_a_browser_leads_nobody_to_set_up(engine: Any) -> None:
    arguments = ("--email", "alice@example.org", "--password", PASSWORD, "--json")
    call_command("bootstrap", *arguments, stdout=io.StringIO())
    client = Client()
    body = {"email": "alice@example.org", "password": PASSWORD, "next": ""}
    assert client.post("/login", body, follow=True).redirect_chain == [("/dashboard", 302)]
    assert client.get("/setup").status_code == 410


def test_the_environment_names_the_first_owner(engine: Any, token: str, settings: Any) -> None:
    settings.OWNER_EMAIL, settings.OWNER_PASSWORD = "Ada@Example.org", PASSWORD
    settings.OWNER_NAME = ""
    ensure_owner()
    ada = Account.objects.get()
    assert (ada.email, ada.name, ada.is_owner) == ("ada@example.org", "ada@example.org", True)
    assert setup.is_complete() and setup.offer_setup_token() is None
    assert not (settings.DATA_DIR / "setup_token").exists()
    assert Client().get("/setup", {"token": token}).status_code == 410
    # The next start finds an owner, and leaves everything as it is.
    settings.OWNER_EMAIL, settings.OWNER_PASSWORD = "eve@example.org", "another long one"
    ensure_owner()
    assert Account.objects.get().check_password(PASSWORD)


def test_an_owner_made_in_the_wizard_is_not_replaced_by_the_environment_s(
    signed_in: Client, settings: Any
) -> None:
    settings.OWNER_EMAIL, settings.OWNER_PASSWORD = "eve@example.org", PASSWORD
    ensure_owner()
    assert Account.objects.get().email == "alice@example.org"
    assert not setup.is_complete()


@pytest.mark.parametrize(
    ("email", "password", "told"),
    [
        ("ada", PASSWORD, "valid e-mail address"),
        ("ada@example.org", "short", "at least 8 characters"),
        ("ada@example.org", "iloveyou", "too common"),
    ],
)
def test_an_owner_that_cannot_be_made_is_told_in_a_sentence(
    token: str, settings: Any, email: str, password: str, told: str
) -> None:
    settings.OWNER_EMAIL, settings.OWNER_PASSWORD = email, password
    settings.OWNER_NAME = ""
    with pytest.raises(ConfigurationError, match=told) as caught:
        ensure_owner()
    assert str(caught.value).startswith("OWNER_EMAIL and OWNER_PASSWORD: ")
    assert password not in str(caught.value)
    assert not Account.objects.exists() and setup.needs_setup()


@pytest.mark.parametrize(
    "environment",
    [
        {"OWNER_EMAIL": "ada@example.org"},
        {"OWNER_PASSWORD": "very secret indeed"},
        {"OWNER_EMAIL": "ada@example.org", "OWNER_PASSWORD": "4711471"},
    ],
    ids=["no password", "no address", "a bad password"],
)
def test_the_start_ends_with_one_sentence_where_the_owner_is_no_good(
    tmp_path: Any, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "serve"],
        cwd=ROOT,
        env={**clean_environment(), "MEM0DASH_DATA_DIR": str(tmp_path), "PORT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    told = done.stderr.strip()
    assert "OWNER_EMAIL and OWNER_PASSWORD" in told
    assert "Traceback" not in told and len(told.splitlines()) == 1
    assert environment.get("OWNER_PASSWORD", "very secret indeed") not in done.stdout + told
