"""Every way in by which something is changed, tried or refused leaves an entry, and no secret."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import bcrypt
import pytest
from django.core.management import call_command
from django.db import OperationalError
from django.test import Client

from accounts import throttle
from accounts.audit import AuditAction
from accounts.models import Account, AuditEntry, InstanceState, Project
from accounts.queries import operator_of, project_view, scopes_in
from accounts.services import ensure_owner
from accounts.tests.signing import sign_in
from apikeys.imported import import_api_key
from apikeys.models import ApiKey
from apikeys.services import create_api_key
from core.principal import Principal
from jobs import queue
from memories import runtime
from memories.bulk import service as bulk
from memories.demo import service as demo
from memories.editing import service as services
from memories.models import Memory, MemoryTokens
from memories.models.bulk import Operation
from memories.models.server import EngineConfig, IndexState, Reembedding
from memories.providers import reembedding
from memories.tests.actions import add
from memories.tests.provider import Provider
from oauth.models import AppGrant, RefreshToken
from oauth.tests import asking
from setup_wizard.tests.wizard import embedder_at, go_to, llm_at, make_key, save

pytestmark = pytest.mark.one_form

PASSWORD = "correct horse battery"
NEW_PASSWORD = "a whole new world"
PROVIDER_KEY = "sk-distinctive-4711-of-mine"
OTHER_KEY = "sk-another-one-0815-of-mine"
SETUP_TOKEN = "a-setup-token-that-nobody-guesses"


class World:
    """A server with an owner, and every way to it. `secrets` are what no entry may hold."""

    def __init__(
        self, client: Client, alice: Account, project: Project, provider: Provider
    ) -> None:
        self.client, self.alice, self.project, self.provider = client, alice, project, provider
        self.secrets = [PASSWORD, NEW_PASSWORD, PROVIDER_KEY, OTHER_KEY, SETUP_TOKEN]
        self.signed_in = sign_in(alice)
        self.row, self.key = create_api_key(owner=alice, project=project, label="door")
        self.secrets.append(self.key)
        self.tokens: dict[str, str] = {}
        self.client_id = ""

    @property
    def owner(self) -> Principal:
        return Principal(
            project=project_view(self.project),
            scopes=scopes_in(self.alice, self.project.id),
            via="session",
            account_id=self.alice.id,
            is_owner=True,
        )

    def api(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """A request with the owner's key; the answer, which is no refusal."""
        sent = {"X-API-Key": self.key, **headers}
        answer = self.client.generic(
            method, path, json.dumps(body or {}), "application/json", headers=sent
        )
        assert answer.status_code < 300, answer.content
        return answer.json()

    def post(self, path: str, expected: int, **body: Any) -> Any:
        """A request without a credential."""
        answer = self.client.post(path, body, "application/json")
        assert answer.status_code == expected, answer.content
        return answer.json()

    def login(self) -> dict[str, str]:
        self.tokens = self.post("/auth/login", 200, email=self.alice.email, password=PASSWORD)
        self.secrets += [self.tokens["access_token"], self.tokens["refresh_token"]]
        return self.tokens

    def page(self, path: str, **fields: Any) -> None:
        answer = self.signed_in.post(path, fields)
        assert answer.status_code == 302, answer.content

    def unowned(self) -> None:
        """Set-up has not begun."""
        AuditEntry._base_manager.all().delete()
        ApiKey.objects.all().delete()
        Account.objects.all().delete()
        InstanceState.objects.update(owner_created_at=None, setup_completed_at=None)

    def unfinished(self, step: str) -> None:
        """Set-up has come to this step."""
        InstanceState.objects.update(setup_completed_at=None)
        go_to(self.signed_in, step)

    def openai(self, key: str = PROVIDER_KEY) -> dict[str, Any]:
        address = self.provider.url
        return {"model": "stub-chat", "api_key": key, "openai_base_url": address}


Door = Callable[[World], object]


def command(name: str, *arguments: str) -> Door:
    return lambda w: call_command(
        name, *[a.format(w=w) for a in arguments], stdout=io.StringIO(), stderr=io.StringIO()
    )


def key_of_a_client(w: World) -> None:
    w.secrets.append(w.api("POST", "/api-keys", {"label": "laptop"})["key"])


def connected(w: World) -> dict[str, Any]:
    """An app that Alice gave access by the page; its tokens."""
    w.client_id = asking.register(Client())
    tokens = asking.connect(w.signed_in, w.client_id)
    w.secrets += [tokens["access_token"], tokens["refresh_token"]]
    return tokens


def app_revoked(w: World) -> None:
    connected(w)
    w.page(f"/dashboard/apps/{AppGrant.objects.get().id}/revoke")


def app_replayed(w: World) -> None:
    first = connected(w)["refresh_token"]
    body = {"grant_type": "refresh_token", "refresh_token": first, "client_id": w.client_id}
    form = "application/x-www-form-urlencoded"
    answer = Client().post("/oauth/token", urlencode(body), form)
    w.secrets += [answer.json()["access_token"], answer.json()["refresh_token"]]
    RefreshToken.objects.exclude(revoked=None).update(revoked=datetime(2026, 1, 1, tzinfo=UTC))
    assert Client().post("/oauth/token", urlencode(body), form).status_code == 400


def revoked_with_what_it_made(w: World) -> None:
    key_of_a_client(w)
    w.api("DELETE", f"/api-keys/{w.row.id}")


def revoked_by_how_it_was_made(w: World) -> None:
    _, key = create_api_key(owner=w.alice, project=w.project, label="tablet", maker=w.owner)
    w.secrets.append(key)
    made = w.client.post(
        "/api-keys", {"label": "watch"}, "application/json", headers={"X-API-Key": key}
    )
    w.secrets.append(made.json()["key"])
    command("revoke_api_key", "--made-via", "session")(w)


def imported_key(w: World) -> None:
    key = "m0sk_" + "i" * 43
    hashed = bcrypt.hashpw(key.encode(), bcrypt.gensalt(4)).decode()
    w.secrets += [key, hashed]
    import_api_key(
        owner=w.alice,
        project=w.project,
        label="old",
        prefix=key[:12],
        bcrypt_hash=hashed,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        last_used_at=None,
    )


def bootstrapped(w: World) -> None:
    w.unowned()
    out = io.StringIO()
    arguments = ("--email", "eve@example.org", "--password", PASSWORD, "--json")
    call_command("bootstrap", *arguments, stdout=out)
    w.secrets.append(json.loads(out.getvalue().splitlines()[-1])["api_key"])


def registered(w: World) -> None:
    w.unowned()
    body = {"name": "Eve", "email": "eve@example.org", "password": PASSWORD}
    w.post("/auth/register", 200, **body, setup_token=SETUP_TOKEN)


def owner_of_the_environment(w: World) -> None:
    w.unowned()
    ensure_owner()


def wrong_setup_token(w: World) -> None:
    w.unowned()
    w.secrets.append("a-wrong-one")
    body = {"name": "Eve", "email": "eve@example.org", "password": PASSWORD}
    w.post("/auth/register", 403, **body, setup_token="a-wrong-one")
    fields = {"name": "Eve", "email": "eve@example.org", "password": PASSWORD}
    answer = Client().post("/setup", {**fields, "setup_token": "a-wrong-one"})
    assert answer.status_code == 403


def claimed(w: World) -> None:
    w.unowned()
    fields = {"name": "Eve", "email": "eve@example.org", "password": PASSWORD}
    answer = Client().post("/setup", {**fields, "setup_token": SETUP_TOKEN})
    assert answer["Location"] == "/setup/provider"


def login_page(password: str, status: int) -> Door:
    def door(w: World) -> None:
        w.secrets.append(password)
        body = {"email": w.alice.email, "password": password}
        assert Client().post("/login", body).status_code == status

    return door


def replayed(w: World) -> None:
    token = w.login()["refresh_token"]
    again = w.post("/auth/refresh", 200, refresh_token=token)
    w.secrets += [again["access_token"], again["refresh_token"]]
    w.post("/auth/refresh", 401, refresh_token=token)


def wrong_present_password(w: World) -> None:
    body = {"current_password": "not that one", "new_password": NEW_PASSWORD}
    answer = w.client.post(
        "/auth/change-password", body, "application/json", headers={"X-API-Key": w.key}
    )
    assert answer.status_code == 401, answer.content


def providers_by_api(w: World) -> None:
    w.api("POST", "/configure", {"llm": {"provider": "openai", "config": w.openai()}})
    w.api("POST", "/configure", {"llm": {"config": {"api_key": OTHER_KEY}}})


def wizard_provider(w: World) -> None:
    w.unfinished("provider")
    picked = (llm_at(w.provider, api_key=PROVIDER_KEY), embedder_at(w.provider, api_key=OTHER_KEY))
    assert save(w.signed_in, picked[0]).status_code == 302


def wizard_key(w: World) -> None:
    w.unfinished("key")
    w.secrets.append(make_key(w.signed_in))


def wizard_finish(w: World) -> None:
    w.unfinished("use-case")
    fields = {"preset": "other", "use_case": "", "instructions": "Remember what people eat."}
    w.page("/setup/use-case", **fields, action="save")
    w.page("/setup/finish")


def new_embedder(w: World) -> dict[str, Any]:
    config = {**w.openai(), "model": "text-embedding-3-small"}
    return {"provider": "openai", "config": config}


def reembedded(w: World) -> None:
    add(w.owner, "green tea")
    job = reembedding.start(w.owner, new_embedder(w))
    reembedding.work(job)
    assert reembedding.flip(runtime.get_runtime())
    assert reembedding.drop_former(w.owner)


def cancelled(w: World) -> None:
    reembedding.start(w.owner, new_embedder(w))
    call_command("reembed", "--cancel", stdout=io.StringIO())


def late_states_removed(w: World) -> None:
    w.page("/dashboard/settings/late-interaction", on="0")
    [id_] = add(w.owner, "green tea")
    MemoryTokens.objects.create(memory_id=id_, states_key="x", data=b"x")
    w.page("/dashboard/settings/late-interaction/remove")
    w.page("/dashboard/settings/late-interaction", on="1")


def erased(w: World) -> None:
    services.erase_memories(operator_of("default"), add(w.owner, "green tea"))


def erased_many(w: World) -> None:
    ids = add(w.owner, "green tea", "black tea")
    for action in ("delete", "erase"):
        bulk.run(w.owner, bulk.plan(w.owner, action, ids=ids).token)


def job_of_the_server(w: World) -> None:
    job = queue.enqueue("operations.prune-request-log", project_id=None, delay=3600)
    for act in ("run", "cancel", "retry"):
        w.page(f"/dashboard/jobs/queue/{job.pk}/{act}")


def bulk_change_cancelled(w: World) -> None:
    running = Operation.objects.create(
        project=w.project,
        action="delete",
        match={"ids": []},
        count=12,
        digest="",
        planned_at=datetime.now(UTC),
        state=Operation.State.RUNNING,
        created_at=datetime.now(UTC),
    )
    w.page(f"/dashboard/jobs/bulk/{running.pk}/cancel")


def demo_removed(w: World) -> None:
    demo.fill_project(operator_of("default"))
    demo.remove_demo(operator_of("default"))


OPERATOR, ALICE, EVE, NOBODY = ("internal", ""), ("session", "Alice"), ("session", "Eve"), ("", "")
BY_KEY = ("api_key", "Alice")
MADE, REVOKED, STEP = AuditAction.KEY_MADE, AuditAction.KEY_REVOKED, AuditAction.SETUP_STEP

# What is done -> the entries that it leaves, oldest first: the action, who did it (via, name), and
# what its target is called.
DOORS: dict[str, tuple[Door, list[tuple[AuditAction, tuple[str, str], str]]]] = {
    "a key made by the API": (key_of_a_client, [(MADE, BY_KEY, "laptop")]),
    "a key made by the command": (
        command("create_api_key", "{w.alice.email}", "--label", "cron"),
        [(MADE, OPERATOR, "cron")],
    ),
    "a key revoked by the API": (
        lambda w: w.api("DELETE", f"/api-keys/{w.row.id}"),
        [(REVOKED, BY_KEY, "door")],
    ),
    "a key revoked by the command": (
        command("revoke_api_key", "{w.row.prefix}"),
        [(REVOKED, OPERATOR, "door")],
    ),
    "a key revoked with what it made": (
        revoked_with_what_it_made,
        [(MADE, BY_KEY, "laptop"), (REVOKED, BY_KEY, "door"), (REVOKED, BY_KEY, "laptop")],
    ),
    "an app that was allowed, and revoked on the page": (
        app_revoked,
        [
            (AuditAction.APP_CONNECTED, ALICE, "Claude Code"),
            (AuditAction.APP_REVOKED, ALICE, "Claude Code"),
        ],
    ),
    "a refresh token of an app that was used again": (
        app_replayed,
        [
            (AuditAction.APP_CONNECTED, ALICE, "Claude Code"),
            (AuditAction.APP_REPLAYED, ("oauth", "Alice"), "Claude Code"),
        ],
    ),
    "keys revoked by how they were made": (
        revoked_by_how_it_was_made,
        [
            (MADE, ALICE, "tablet"),
            (MADE, BY_KEY, "watch"),
            (REVOKED, OPERATOR, "tablet"),
            (REVOKED, OPERATOR, "watch"),
        ],
    ),
    "a key imported": (imported_key, [(AuditAction.KEY_IMPORTED, OPERATOR, "old")]),
    "bootstrap": (
        bootstrapped,
        [
            (AuditAction.ACCOUNT_MADE, OPERATOR, "eve@example.org"),
            (MADE, OPERATOR, "First key"),
            (AuditAction.SETUP_COMPLETED, OPERATOR, ""),
        ],
    ),
    "the owner by the environment": (
        owner_of_the_environment,
        [
            (AuditAction.ACCOUNT_MADE, OPERATOR, "Eve (eve@example.org)"),
            (AuditAction.SETUP_COMPLETED, OPERATOR, ""),
        ],
    ),
    "the owner by the API": (
        registered,
        [
            (AuditAction.ACCOUNT_MADE, EVE, "Eve (eve@example.org)"),
            (AuditAction.SETUP_COMPLETED, EVE, ""),
        ],
    ),
    "the owner by the page": (claimed, [(AuditAction.ACCOUNT_MADE, EVE, "Eve (eve@example.org)")]),
    "a wrong setup token": (
        wrong_setup_token,
        [(AuditAction.SETUP_REFUSED, NOBODY, ""), (AuditAction.SETUP_REFUSED, NOBODY, "")],
    ),
    "one's own account changed": (
        lambda w: w.api("PATCH", "/auth/me", {"name": "Alicia"}),
        [(AuditAction.ACCOUNT_CHANGED, BY_KEY, "Alice (alice@example.org)")],
    ),
    "a password changed": (
        lambda w: w.api(
            "POST",
            "/auth/change-password",
            {"current_password": PASSWORD, "new_password": NEW_PASSWORD},
        ),
        [(AuditAction.PASSWORD_CHANGED, BY_KEY, "Alice (alice@example.org)")],
    ),
    "a wrong present password": (
        wrong_present_password,
        [(AuditAction.PASSWORD_REFUSED, BY_KEY, "Alice (alice@example.org)")],
    ),
    "a password reset": (
        command("reset_password", "{w.alice.email}", "--password", NEW_PASSWORD),
        [(AuditAction.PASSWORD_RESET, OPERATOR, "Alice (alice@example.org)")],
    ),
    "an account deactivated": (
        command("deactivate_account", "{w.alice.email}"),
        [(AuditAction.ACCOUNT_DEACTIVATED, OPERATOR, "Alice (alice@example.org)")],
    ),
    "an account let in again": (
        command("deactivate_account", "{w.alice.email}", "--undo"),
        [(AuditAction.ACCOUNT_ACTIVATED, OPERATOR, "Alice (alice@example.org)")],
    ),
    "signing in by the API": (
        lambda w: w.login(),
        [(AuditAction.SESSION_OPENED, ALICE, "Alice (alice@example.org)")],
    ),
    "signing in by the page": (
        login_page(PASSWORD, 302),
        [(AuditAction.SESSION_OPENED, ALICE, "Alice (alice@example.org)")],
    ),
    "failing to sign in by the page": (
        login_page("not that one", 422),
        [(AuditAction.SESSION_REFUSED, NOBODY, "Alice (alice@example.org)")],
    ),
    "failing to sign in by the API": (
        lambda w: w.post("/auth/login", 401, email="Ghost@example.org", password="not that one"),
        [(AuditAction.SESSION_REFUSED, NOBODY, "ghost@example.org")],
    ),
    "signing out": (
        lambda w: w.page("/logout"),
        [(AuditAction.SESSION_CLOSED, ALICE, "Alice (alice@example.org)")],
    ),
    "a refresh token used twice": (
        replayed,
        [
            (AuditAction.SESSION_OPENED, ALICE, "Alice (alice@example.org)"),
            (AuditAction.SESSION_REPLAYED, NOBODY, "Alice (alice@example.org)"),
        ],
    ),
    "providers by the API": (
        providers_by_api,
        [(AuditAction.PROVIDERS_CONFIGURED, BY_KEY, "")] * 2,
    ),
    "instructions by the API": (
        lambda w: w.api("POST", "/configure", {"custom_instructions": "Remember meals."}),
        [(AuditAction.INSTRUCTIONS_CHANGED, BY_KEY, "Default")],
    ),
    "the time zone": (
        lambda w: w.page("/dashboard/settings/time-zone", time_zone="Europe/Berlin"),
        [(AuditAction.TIME_ZONE_CHANGED, ALICE, "Default")],
    ),
    "providers by the wizard": (
        wizard_provider,
        [(AuditAction.PROVIDERS_CONFIGURED, ALICE, ""), (STEP, ALICE, "Model provider")],
    ),
    "a key by the wizard": (
        wizard_key,
        [
            (STEP, ALICE, "Model provider"),
            (MADE, ALICE, "First key"),
            (STEP, ALICE, "First key"),
        ],
    ),
    "the last steps of the wizard": (
        wizard_finish,
        [
            (STEP, ALICE, "Model provider"),
            (MADE, ALICE, "First key"),
            (STEP, ALICE, "First key"),
            (AuditAction.INSTRUCTIONS_CHANGED, ALICE, "Default"),
            (STEP, ALICE, "Use case"),
            (STEP, ALICE, "Test"),
            (AuditAction.SETUP_COMPLETED, ALICE, ""),
        ],
    ),
    "re-embedding to its end": (
        reembedded,
        [
            (AuditAction.REEMBEDDING_BEGUN, ALICE, "openai/text-embedding-3-small/1536"),
            (
                AuditAction.REEMBEDDING_DONE,
                ("internal", "Alice"),
                "openai/text-embedding-3-small/1536",
            ),
            (AuditAction.VECTORS_REMOVED, ALICE, "test/words-1"),
        ],
    ),
    "re-embedding cancelled": (
        cancelled,
        [
            (AuditAction.REEMBEDDING_BEGUN, ALICE, "openai/text-embedding-3-small/1536"),
            (AuditAction.REEMBEDDING_CANCELLED, OPERATOR, "openai/text-embedding-3-small/1536"),
        ],
    ),
    "late interaction off, removed, and on": (
        late_states_removed,
        [
            (AuditAction.LATE_INTERACTION_OFF, ALICE, ""),
            (AuditAction.LATE_INTERACTION_REMOVED, ALICE, ""),
            (AuditAction.LATE_INTERACTION_ON, ALICE, ""),
        ],
    ),
    "late interaction by the command": (
        command("token_states", "--off"),
        [(AuditAction.LATE_INTERACTION_OFF, OPERATOR, "")],
    ),
    "a project reset": (
        lambda w: w.api("POST", "/reset"),
        [(AuditAction.PROJECT_RESET, BY_KEY, "default")],
    ),
    "memories erased": (erased, [(AuditAction.MEMORIES_ERASED, OPERATOR, "default")]),
    "memories erased as a bulk change": (
        erased_many,
        [(AuditAction.MEMORIES_ERASED, ALICE, "default")],
    ),
    "a job run now, cancelled and retried": (
        job_of_the_server,
        [
            (AuditAction.JOB_STARTED, ALICE, "Prune request log"),
            (AuditAction.JOB_CANCELLED, ALICE, "Prune request log"),
            (AuditAction.JOB_RETRIED, ALICE, "Prune request log"),
        ],
    ),
    "a bulk change cancelled": (
        bulk_change_cancelled,
        [(AuditAction.BULK_CHANGE_CANCELLED, ALICE, "")],
    ),
    "sample data removed": (demo_removed, [(AuditAction.DEMO_REMOVED, OPERATOR, "default")]),
    "the encryption key rotated": (
        command("rotate_encryption_key"),
        [(AuditAction.ENCRYPTION_KEY_ROTATED, OPERATOR, "")],
    ),
}


@pytest.fixture
def world(
    engine: Any,
    client: Client,
    alice: Account,
    project: Project,
    provider: Provider,
    settings: Any,
    tmp_path: Path,
) -> World:
    settings.DATA_DIR = tmp_path
    settings.SETUP_TOKEN = SETUP_TOKEN
    settings.PROVIDER_ENVIRONMENT = {}
    settings.OWNER_EMAIL, settings.OWNER_NAME = "eve@example.org", "Eve"
    settings.OWNER_PASSWORD = PASSWORD
    settings.EMBEDDER_LOADER = "memories.tests.providers.test_reembedding.load_words"
    IndexState.objects.update_or_create(
        name="default", defaults={"model_key": "test/words-1", "dims": 64}
    )
    made = World(client, alice, project, provider)
    AuditEntry._base_manager.all().delete()
    return made


@pytest.mark.parametrize("name", DOORS)
def test_what_is_done_leaves_an_entry_with_who_did_it_and_no_secret(
    world: World, name: str
) -> None:
    door, expected = DOORS[name]
    door(world)
    rows = list(AuditEntry.objects.order_by("id"))
    left = [(row.action, (row.via, row.actor_label), row.target_label) for row in rows]
    assert left == expected
    kept = json.dumps(list(AuditEntry.objects.values()), default=str, ensure_ascii=False)
    for secret in world.secrets:
        assert secret not in kept
        # Nor the rest of a key whose first characters are shown everywhere.
        assert secret[12:] not in kept or len(secret) < 20


def test_every_action_is_left_by_some_door() -> None:
    """A copied database tells of itself in test_copy_database."""
    left = {action for _, expected in DOORS.values() for action, _, _ in expected}
    assert left | {AuditAction.DATABASE_COPIED} == set(AuditAction)


def test_a_changed_secret_is_told_as_changed(world: World) -> None:
    providers_by_api(world)
    first, second = AuditEntry.objects.order_by("id")
    assert first.details["llm.provider"] == [None, "openai"]
    assert first.details["llm.model"] == [None, "stub-chat"]
    assert first.details["llm.api_key"] == "changed"
    assert second.details == {"llm.api_key": "changed"}


@pytest.mark.parametrize(
    "door",
    [
        command("create_api_key", "{w.alice.email}", "--label", "cron"),
        command("revoke_api_key", "{w.row.prefix}"),
        command("reset_password", "{w.alice.email}", "--password", NEW_PASSWORD),
        command("deactivate_account", "{w.alice.email}"),
        command("token_states", "--off"),
        lambda w: w.api("POST", "/configure", {"custom_instructions": "Remember meals."}),
        lambda w: w.api("PATCH", "/auth/me", {"name": "Alicia"}),
        lambda w: reembedding.start(w.owner, new_embedder(w)),
        erased,
    ],
)
def test_a_change_whose_entry_cannot_be_written_is_not_made(
    world: World, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no room for an entry")

    def state() -> Any:
        tables = (Account, ApiKey, Project, EngineConfig, Reembedding)
        kept = [list(table.objects.order_by("pk").values()) for table in tables]
        for row in kept[1]:
            row.pop("last_used_at")
        return kept, Memory.objects.filter(deleted_at__isnull=False).count()

    before = state()
    monkeypatch.setattr("accounts.models.AuditEntry.save", refuse)
    with pytest.raises(RuntimeError, match="no room"):
        door(world)
    assert state() == before


def test_nobody_is_kept_out_because_the_entry_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr("accounts.models.AuditEntry.save", locked)
    login_page("not that one", 422)(world)
    login_page(PASSWORD, 302)(world)
    world.login()
    world.page("/logout")
    world.post("/auth/login", 401, email="ghost@example.org", password="not that one")
    assert not AuditEntry.objects.exists()


def test_a_wrong_password_leaves_where_it_came_from(world: World) -> None:
    body = {"email": world.alice.email, "password": "not that one"}
    Client().post("/login", body, REMOTE_ADDR="192.0.2.7", headers={"User-Agent": "Firefox"})
    row = AuditEntry.objects.get()
    assert (row.address, row.client, row.target_id) == (
        "192.0.2.7",
        "Firefox",
        str(world.alice.id),
    )
    assert row.request_id and row.project_id is None and row.account_id is None


def test_attempts_that_came_too_often_are_counted_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No minute ends in the middle of it.
    monkeypatch.setattr(throttle, "time", SimpleNamespace(time=lambda: 1_800_000_000.0))
    for n in range(16):
        body = {"email": world.alice.email, "password": "not that one"}
        status = Client().post("/login", body, REMOTE_ADDR=f"192.0.2.{n}").status_code
        assert status == (422 if n < 14 else 429)
    rows = AuditEntry.objects.filter(action=AuditAction.SESSION_REFUSED).order_by("id")
    counts = list(rows.values_list("count", flat=True))
    assert counts[:5] == [1] * 5 and len(counts) in {6, 7} and sum(counts) == 16
