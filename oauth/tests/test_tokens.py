"""Codes and tokens: who gets them, for what, and when they are over."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account, AuditEntry, Membership, Project, Role
from core.principal import Principal, Scope
from oauth.models import AccessToken, AppGrant, AuthorizationCode, RefreshToken
from oauth.service import connected_apps, principal_of, revoke_app
from oauth.tests.flow import CALLBACK, App, make_app
from oauth.validator import OVERLAP_SECONDS


@pytest.fixture
def app(client: Client, db: None) -> App:
    return make_app(client)


def caller(token: str) -> Principal | None:
    return principal_of(token, request_id="r1", client="test/1")


def holds(token: str) -> bool:
    return caller(token) is not None


def test_a_consent_gives_tokens_for_one_project_and_its_scopes(
    app: App, bob: Account, project: Project
) -> None:
    tokens = app.connect(bob, project)
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 3600
    assert tokens["scope"] == "memory:read memory:write"
    principal = caller(tokens["access_token"])
    assert principal is not None
    assert (principal.via, principal.account_id, principal.project.id, principal.app) == (
        "oauth",
        bob.id,
        project.id,
        app.client_id,
    )
    assert principal.scopes == {Scope.READ, Scope.WRITE}
    assert (principal.request_id, principal.client, principal.is_owner) == ("r1", "test/1", False)
    assert (principal.key_id, principal.key_prefix) == (None, "")
