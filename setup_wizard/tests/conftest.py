"""Servers whose set-up has not begun, and ones in the middle of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts import setup
from accounts.models import Account, InstanceState
from accounts.tests.signing import sign_in
from mem0dash.tests.browser import Site
from memories.tests.provider import Provider
from prove.server import Server
from setup_wizard.tests.walk import PROVIDER_KEY


@pytest.fixture
def token(db: None, settings: Any, tmp_path: Path) -> str:
    """The setup token of a server that nobody owns."""
    settings.DATA_DIR = tmp_path
    made = setup.offer_setup_token()
    assert made is not None
    return made


@pytest.fixture
def claimed(alice: Account) -> Account:
    """The owner of a server whose set-up goes on."""
    InstanceState.objects.update(setup_completed_at=None)
    return alice


@pytest.fixture
def signed_in(engine: Any, claimed: Account) -> Client:
    """The owner's client, in the middle of set-up."""
    return sign_in(claimed)


@pytest.fixture
def fresh(tmp_path: Path, chromium: Any) -> Iterator[Site]:
    """A server that was started for the first time a moment ago."""
    server = Server(tmp_path / "data")
    try:
        server.start()
        yield Site(server, chromium)
    finally:
        server.kill9()


@pytest.fixture
def stub() -> Iterator[Provider]:
    """A provider that wants its key."""
    with Provider(api_key=PROVIDER_KEY) as running:
        yield running
