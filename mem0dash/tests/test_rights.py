"""Who may call what: every route of the URLconf with every kind of credential."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.conf import settings
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from accounts.models import Account, Attempt, Membership, Project, Role
from accounts.sessions import open_session
from apikeys.models import ApiKey
from apikeys.services import digest_of
from core.principal import Scope
from memories.models import Memory

pytestmark = pytest.mark.one_form

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
PUBLIC = "public"
# A page: no credential of the API opens it, and its session opens no API.
PAGE = "page"
# Any credential that holds, whatever its scopes: routes of one's own account and keys.
USER = "user"
# The same, but a key needs all that its owner may do.
WHOLE = "whole"
# Scope admin without an entity limit: what holds for the whole project.
PROJECT = "project"
# A credential of the instance's owner with scope admin and without an entity limit.
OWNER = "owner"


@dataclass(frozen=True)
class Right:
    """What a route needs and how it answers.

    `needs` is the scope, or PUBLIC, PAGE, USER, WHOLE, PROJECT, OWNER. `path` may hold {id}, one
    memory of the user "alice". A caller with the right gets `ok`; one whose reach ends before that
    memory `outside`.
    """

    needs: str
    path: str
    body: Any = None
    ok: int = 200
    outside: int = 200
    # A key limited to other users: an add in a name that is not its own is no question of finding.
    limited: int | None = None
    changes: bool = field(default=False)


ADD = {"messages": [{"role": "user", "content": "I also drink water"}], "user_id": "alice"}
FIND = {"query": "tea", "filters": {"user_id": "alice"}}

LOGIN = {"email": "alice@example.org", "password": "correct horse battery"}
REGISTER = {**LOGIN, "name": "Eve", "setup_token": "wrong"}
NO_PASSWORD = {"current_password": "wrong", "new_password": "a whole new world"}

# Every route stands here with the scope it needs. A new one has to be added, with its scope.
TABLE: dict[tuple[str, str], Right] = {
    ("root", "GET"): Right(PUBLIC, "/", ok=307),
    ("healthz", "GET"): Right(PUBLIC, "/healthz"),
    ("metrics", "GET"): Right(OWNER, "/metrics"),
    ("openapi", "GET"): Right(PUBLIC, "/openapi.json"),
    ("docs", "GET"): Right(PUBLIC, "/docs"),
    ("login", "GET"): Right(PUBLIC, "/login"),
    ("login", "POST"): Right(PUBLIC, "/login", {}, ok=422),
    ("logout", "POST"): Right(PUBLIC, "/logout", {}, ok=302),
    # Alice's server is set up: then there is nothing to set up any more, for nobody.
    ("start", "GET"): Right(PUBLIC, "/setup", ok=410),
    ("start", "POST"): Right(PUBLIC, "/setup", {}, ok=410),
    ("administrator", "GET"): Right(PUBLIC, "/setup/administrator", ok=410),
    ("administrator", "POST"): Right(PUBLIC, "/setup/administrator", {}, ok=410),
    ("provider", "GET"): Right(PUBLIC, "/setup/provider", ok=410),
    ("provider", "POST"): Right(PUBLIC, "/setup/provider", {}, ok=410),
    ("key", "GET"): Right(PUBLIC, "/setup/key", ok=410),
    ("key", "POST"): Right(PUBLIC, "/setup/key", {}, ok=410),
    ("use-case", "GET"): Right(PUBLIC, "/setup/use-case", ok=410),
    ("use-case", "POST"): Right(PUBLIC, "/setup/use-case", {}, ok=410),
    ("test", "GET"): Right(PUBLIC, "/setup/test", ok=410),
    ("test", "POST"): Right(PUBLIC, "/setup/test", {}, ok=410),
    ("finish", "POST"): Right(PUBLIC, "/setup/finish", {}, ok=410),
    ("overview", "GET"): Right(PAGE, "/dashboard", ok=302),
    ("bulk-plan", "POST"): Right(PAGE, "/dashboard/memories/bulk", {}, ok=302),
    ("bulk-run", "POST"): Right(PAGE, "/dashboard/memories/bulk/run", {}, ok=302),
    ("entities", "GET"): Right(PAGE, "/dashboard/entities", ok=302),
    ("entity-delete", "GET"): Right(PAGE, "/dashboard/entities/delete", ok=302),
    ("operations", "GET"): Right(PAGE, "/dashboard/operations", ok=302),
    ("operation", "GET"): Right(PAGE, "/dashboard/operations/{id}", ok=302),
    ("operation-undo", "POST"): Right(PAGE, "/dashboard/operations/{id}/undo", {}, ok=302),
    ("operation-cancel", "POST"): Right(PAGE, "/dashboard/operations/{id}/cancel", {}, ok=302),
    ("jobs", "GET"): Right(PAGE, "/dashboard/jobs", ok=302),
    ("retry-failed", "POST"): Right(PAGE, "/dashboard/jobs/retry", {}, ok=302),
    ("job-retry", "POST"): Right(PAGE, "/dashboard/jobs/queue/1/retry", {}, ok=302),
    ("job-run", "POST"): Right(PAGE, "/dashboard/jobs/queue/1/run", {}, ok=302),
    ("job-cancel", "GET"): Right(PAGE, "/dashboard/jobs/queue/1/cancel", ok=302),
    ("job-cancel", "POST"): Right(PAGE, "/dashboard/jobs/queue/1/cancel", {}, ok=302),
    ("schedule-run", "POST"): Right(PAGE, "/dashboard/jobs/schedules/1/run", {}, ok=302),
    ("connected-apps", "GET"): Right(PAGE, "/dashboard/apps", ok=302),
    ("app-revoke", "POST"): Right(PAGE, "/dashboard/apps/{id}/revoke", {}, ok=302),
    ("authorize", "GET"): Right(PAGE, "/oauth/authorize", ok=302),
    ("authorize", "POST"): Right(PAGE, "/oauth/authorize", {}, ok=302),
    ("theme", "POST"): Right(PAGE, "/dashboard/theme", {"theme": "dark"}, ok=302),
    ("connect", "GET"): Right(PAGE, "/dashboard/connect", ok=302),
    ("connect-copied", "POST"): Right(PAGE, "/dashboard/connect/copied", {}, ok=302),
    ("llms", "GET"): Right(PUBLIC, "/llms.txt"),
    ("claude-code", "GET"): Right(PUBLIC, "/claude-code"),
    ("claude-code-install", "GET"): Right(PUBLIC, "/claude-code/install.sh"),
    # What is not git's is refused, with or without a credential.
    ("claude-code-refs", "GET"): Right(PUBLIC, "/claude-code/mem0dash.git/info/refs", ok=400),
    ("claude-code-pack", "POST"): Right(
        PUBLIC, "/claude-code/mem0dash.git/git-upload-pack", {}, ok=400
    ),
    ("settings", "GET"): Right(PAGE, "/dashboard/settings", ok=302),
    ("time-zone", "POST"): Right(PAGE, "/dashboard/settings/time-zone", {}, ok=302),
    ("late-interaction", "POST"): Right(PAGE, "/dashboard/settings/late-interaction", {}, ok=302),
    **{
        ("late-interaction-remove", method): Right(
            PAGE, "/dashboard/settings/late-interaction/remove", {}, ok=302
        )
        for method in ("GET", "POST")
    },
    ("activity", "GET"): Right(PAGE, "/dashboard/activity", ok=302),
    ("activity-export", "GET"): Right(PAGE, "/dashboard/activity/export", ok=302),
    ("requests-page", "GET"): Right(PAGE, "/dashboard/requests", ok=302),
    ("browse", "GET"): Right(PAGE, "/dashboard/memories", ok=302),
    ("filters", "GET"): Right(PAGE, "/dashboard/memories/filters", ok=302),
    ("memories-export", "GET"): Right(PAGE, "/dashboard/memories/export?format=csv", ok=302),
    ("memory-add", "GET"): Right(PAGE, "/dashboard/memories/add", ok=302),
    ("memory-add", "POST"): Right(PAGE, "/dashboard/memories/add", {}, ok=302),
    ("memory-edit", "GET"): Right(PAGE, "/dashboard/memories/{id}/edit", ok=302),
    ("memory-edit", "POST"): Right(PAGE, "/dashboard/memories/{id}/edit", {}, ok=302),
    ("memory-delete", "POST"): Right(PAGE, "/dashboard/memories/{id}/delete", {}, ok=302),
    ("memory-restore", "POST"): Right(PAGE, "/dashboard/memories/{id}/restore", {}, ok=302),
    ("memory-review", "POST"): Right(PAGE, "/dashboard/memories/{id}/review", {}, ok=302),
    ("memory-confidence", "POST"): Right(PAGE, "/dashboard/memories/{id}/confidence", {}, ok=302),
    ("memory-expiry", "POST"): Right(PAGE, "/dashboard/memories/{id}/expiry", {}, ok=302),
    ("memory-undo", "POST"): Right(PAGE, "/dashboard/memories/{id}/undo/1", {}, ok=302),
    ("views", "GET"): Right(PAGE, "/dashboard/memories/views", ok=302),
    ("view-save", "POST"): Right(PAGE, "/dashboard/memories/views/save", {}, ok=302),
    ("view-rename", "POST"): Right(PAGE, "/dashboard/memories/views/1/rename", {}, ok=302),
    ("view-delete", "POST"): Right(PAGE, "/dashboard/memories/views/1/delete", {}, ok=302),
    ("auth-setup-status", "GET"): Right(PUBLIC, "/auth/setup-status"),
    ("auth-register", "POST"): Right(PUBLIC, "/auth/register", REGISTER, ok=403),
    ("auth-login", "POST"): Right(PUBLIC, "/auth/login", LOGIN),
    ("auth-refresh", "POST"): Right(PUBLIC, "/auth/refresh", {"refresh_token": "a.b.c"}, ok=401),
    ("auth-me", "GET"): Right(USER, "/auth/me"),
    ("auth-me", "PATCH"): Right(WHOLE, "/auth/me", {"name": " "}),
    # A session holds as well, and the wrong password is all that is wrong.
    ("auth-change-password", "POST"): Right(
        WHOLE, "/auth/change-password", NO_PASSWORD, ok=401, outside=401
    ),
    ("auth-onboarding-complete", "POST"): Right(
        USER, "/auth/onboarding-complete", {"use_case": "notes"}
    ),
    ("api-keys", "GET"): Right(USER, "/api-keys"),
    ("api-keys", "POST"): Right("write", "/api-keys", {"label": "x"}, ok=201, outside=201),
    ("api-key", "DELETE"): Right(USER, "/api-keys/{id}", ok=404, outside=404),
    ("requests", "GET"): Right("admin", "/requests"),
    ("oss-configure", "GET"): Right("read", "/configure"),
    ("oss-configure", "POST"): Right(PROJECT, "/configure", {"custom_instructions": "brief"}),
    ("oss-providers", "GET"): Right("read", "/configure/providers"),
    # Without an LLM there is nobody to write them.
    ("oss-generate-instructions", "POST"): Right(
        "write", "/generate-instructions", {"use_case": "notes"}, ok=409, outside=409
    ),
    ("oss-reset", "POST"): Right("admin", "/reset", changes=True),
    ("oss-memories", "POST"): Right("write", "/memories", ADD, limited=403, changes=True),
    ("oss-memories", "GET"): Right("read", "/memories?user_id=alice"),
    ("oss-memories", "DELETE"): Right("admin", "/memories?user_id=alice", changes=True),
    ("oss-memory", "GET"): Right("read", "/memories/{id}"),
    ("oss-memory", "PUT"): Right(
        "write", "/memories/{id}", {"text": "changed"}, outside=404, changes=True
    ),
    ("oss-memory", "DELETE"): Right("write", "/memories/{id}", outside=404, changes=True),
    ("oss-history", "GET"): Right("read", "/memories/{id}/history"),
    ("oss-search", "POST"): Right("read", "/search", FIND),
    ("memserv-memories", "POST"): Right(
        "write",
        "/api/v1/memories",
        {"content": "I also drink water", "user_id": "alice"},
        limited=403,
        changes=True,
    ),
    ("memserv-memories", "GET"): Right("read", "/api/v1/memories?user_id=alice"),
    ("memserv-search", "POST"): Right(
        "read", "/api/v1/memories/search", {"query": "tea", "user_id": "alice"}
    ),
    ("memserv-bulk", "POST"): Right(
        "review",
        "/api/v1/memories/delete_bulk",
        {"user_id": "alice", "review_status": "unreviewed", "confirm": True},
        changes=True,
    ),
    ("memserv-memory", "GET"): Right("read", "/api/v1/memories/{id}", outside=404),
    ("memserv-memory", "PUT"): Right(
        "write", "/api/v1/memories/{id}", {"content": "changed"}, outside=404, changes=True
    ),
    ("memserv-memory", "DELETE"): Right(
        "write", "/api/v1/memories/{id}", outside=404, changes=True
    ),
    ("memserv-history", "GET"): Right("read", "/api/v1/memories/{id}/history"),
    **{
        (name, method): Right(PUBLIC, path, {}, ok=307)
        for name, path in (
            ("memserv-slash", "/api/v1/memories/"),
            ("memserv-slash-below", "/api/v1/memories/search/"),
        )
        for method in ("GET", "POST", "PUT", "DELETE")
    },
    ("oss-entities", "GET"): Right("read", "/entities"),
    ("oss-entity", "DELETE"): Right("admin", "/entities/user/alice", changes=True),
}


def patterns(found: list[Any], prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for pattern in found:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from patterns(pattern.url_patterns, path)
        else:
            yield path, pattern


def methods_of(view: Any) -> list[str]:
    """What `require_http_methods` and its like let through to a plain view."""
    while view is not None:
        found = inspect.getclosurevars(view).nonlocals.get("request_method_list")
        if found:
            return list(found)
        view = getattr(view, "__wrapped__", None)
    raise AssertionError("a plain view has to say which methods it takes: @require_safe …")


def routes() -> list[tuple[str, str, str]]:
    """(name, method, path) of everything the URLconf serves."""
    found = []
    for path, pattern in patterns(get_resolver(settings.ROOT_URLCONF).url_patterns):
        name = pattern.name or f"the unnamed route /{path}"
        view = getattr(pattern.callback, "cls", None) or getattr(
            pattern.callback, "view_class", None
        )
        methods = [m for m in METHODS if hasattr(view, m.lower())] if view else None
        methods = methods or [m for m in METHODS if m in methods_of(pattern.callback)]
        found += [(name, method, path) for method in methods]
    return found


ROUTES = routes()


def test_the_table_holds_every_route_and_no_other() -> None:
    served = {(name, method) for name, method, _ in ROUTES}
    missing = sorted(served - TABLE.keys())
    assert not missing, f"routes without a needed scope in TABLE: {missing}"
    assert not TABLE.keys() - served, "TABLE speaks of routes that are not served"


@dataclass
class Caller:
    """A credential, and the scopes it should have; None: it does not hold at all."""

    key: str | None
    scopes: set[str] | None
    reach: str = "inside"
    headers: dict[str, str] = field(default_factory=dict)
    # Whether it may do all that its account may.
    whole: bool = False
    # Whether it is the instance owner's, without a limit.
    owner: bool = False
    refused: int = 401
    # Whether it has an entity limit.
    limited: bool = False


EVERYTHING = {scope.value for scope in Scope}


@dataclass
class Office:
    """Gives out credentials, and lets the people come and go who have them."""

    alice: Account
    project: Project
    other_project: Project
    key: Callable[..., str]

    def person(self, name: str, role: str | None = None, **fields: Any) -> Account:
        account = Account.objects.create(email=f"{name}@example.org", name=name, **fields)
        if role is not None:
            Membership.objects.create(project=self.project, account=account, role=role)
        return account

    def session(self, account: Account, *, of: str = "access", **changes: Any) -> dict[str, str]:
        """The header of a session of this account, as it was before the changes to the account."""
        token = getattr(open_session(account), of)
        Account.objects.filter(pk=account.pk).update(**changes)
        return {"Authorization": f"Bearer {token}"}

    def forged(self, secret: str, algorithm: str) -> dict[str, str]:
        claims = {"sub": str(self.alice.id), "type": "access", "epoch": 0, "role": "admin"}
        claims["exp"] = timezone.now() + timedelta(minutes=5)
        token = jwt.encode(claims, secret, algorithm=algorithm)
        return {"Authorization": f"Bearer {token}"}

    def key_of_role(self, role: str) -> str:
        """A key with all scopes, whose owner has only this role now."""
        account = self.person(role, Role.ADMIN)
        made = self.key(*EVERYTHING, owner=account)
        Membership.objects.filter(account=account).update(role=role)
        return made

    def expired(self) -> str:
        return self.key(expires_at=timezone.now() - timedelta(seconds=1))

    def revoked(self) -> str:
        made = self.key()
        ApiKey.objects.filter(digest=digest_of(made)).update(revoked_at=timezone.now())
        return made

    def of_nobody(self) -> str:
        account = self.person("gone", is_owner=True)
        made = self.key(owner=account)
        Account.objects.filter(pk=account.pk).update(is_active=False)
        return made

    def of_a_former_member(self) -> str:
        account = self.person("left", Role.ADMIN)
        made = self.key(owner=account)
        Membership.objects.filter(account=account).delete()
        return made


def signed_in(headers: dict[str, str], scopes: set[str] | None, **rest: Any) -> Caller:
    return Caller(None, scopes, headers=headers, whole=True, **rest)


SESSIONS: dict[str, Callable[[Office], Caller]] = {
    "a session of the owner": lambda o: signed_in(o.session(o.alice), EVERYTHING, owner=True),
    "a session of a member": lambda o: signed_in(
        o.session(o.person("m", "member")), {"read", "write"}
    ),
    "a session of a reviewer": lambda o: signed_in(
        o.session(o.person("r", "reviewer")), {"read", "write", "review"}
    ),
    "a session of an admin": lambda o: signed_in(o.session(o.person("a", "admin")), EVERYTHING),
    "a session of a former member": lambda o: signed_in(o.session(o.person("f")), set()),
    "a session in another project": lambda o: signed_in(
        {**o.session(o.alice), "X-Project": "other"}, EVERYTHING, reach="foreign", owner=True
    ),
    "a session in a project of others": lambda o: signed_in(
        {**o.session(o.person("s", "admin")), "X-Project": "other"}, None, refused=404
    ),
    "a session in a project that is not": lambda o: signed_in(
        {**o.session(o.person("t", "admin")), "X-Project": "nowhere"}, None, refused=404
    ),
    "a session from before a new password": lambda o: signed_in(
        o.session(o.person("p", "admin"), session_epoch=1), None
    ),
    "a session of a deactivated account": lambda o: signed_in(
        o.session(o.person("d", "admin"), is_active=False), None
    ),
    "a refresh token": lambda o: signed_in(o.session(o.alice, of="refresh"), None),
    "a session signed by somebody else": lambda o: signed_in(o.forged("x" * 50, "HS256"), None),
    "a session in another algorithm": lambda o: signed_in(
        o.forged(settings.JWT_SECRET, "HS512"), None
    ),
    "a session in no algorithm": lambda o: signed_in(o.forged("", "none"), None),
}
CALLERS: dict[str, Callable[[Office], Caller]] = {
    "no credential": lambda o: Caller(None, None),
    "a malformed key": lambda o: Caller("m0sk_short", None),
    "a key of another kind": lambda o: Caller("sk-proj-" + "x" * 48, None),
    "an unknown key": lambda o: Caller("m0sk_" + "x" * 43, None),
    "an expired key": lambda o: Caller(o.expired(), None),
    "a revoked key": lambda o: Caller(o.revoked(), None),
    "a key of a deactivated owner": lambda o: Caller(o.of_nobody(), None),
    "a key of a former member": lambda o: Caller(o.of_a_former_member(), set()),
    **{f"scope {s}": lambda o, s=s: Caller(o.key(s), {s}, owner=True) for s in sorted(EVERYTHING)},
    "read and write": lambda o: Caller(o.key("read", "write"), {"read", "write"}),
    "all scopes": lambda o: Caller(o.key(), EVERYTHING, whole=True, owner=True),
    "all scopes of a member": lambda o: Caller(
        o.key_of_role("member"), {"read", "write"}, whole=True
    ),
    "all scopes of a reviewer": lambda o: Caller(
        o.key_of_role("reviewer"), {"read", "write", "review"}, whole=True
    ),
    "all scopes of an admin": lambda o: Caller(o.key_of_role("admin"), EVERYTHING, whole=True),
    "limited to alice": lambda o: Caller(
        o.key(entity_limit={"user_id": ["alice"]}), EVERYTHING, limited=True
    ),
    "limited to another user": lambda o: Caller(
        o.key(entity_limit={"user_id": ["zoe"]}), EVERYTHING, "limited", limited=True
    ),
    "limited to an agent": lambda o: Caller(
        o.key(entity_limit={"agent_id": ["bot"]}), EVERYTHING, "limited", limited=True
    ),
    "all scopes of another project": lambda o: Caller(
        o.key(project=o.other_project), EVERYTHING, "foreign", whole=True, owner=True
    ),
    **SESSIONS,
}


@pytest.fixture(autouse=True)
def _unlimited(settings: Any) -> None:
    """How often an address may fail is another question."""
    settings.RATE_LIMIT_AUTH_FAILURES = 0


@pytest.fixture
def office(key: Any, alice: Account, project: Project, other_project: Project) -> Office:
    return Office(alice, project, other_project, key)


def expected(right: Right, caller: Caller) -> int:
    if right.needs in {PUBLIC, PAGE}:
        return right.ok
    if caller.scopes is None:
        return caller.refused
    held = {USER, *caller.scopes}
    if Scope.ADMIN in caller.scopes and not caller.limited:
        held.add(PROJECT)
    if caller.whole:
        held.add(WHOLE)
    if caller.owner and Scope.ADMIN in caller.scopes:
        held.add(OWNER)
    if right.needs not in held:
        return 403
    if caller.reach == "limited" and right.limited is not None:
        return right.limited
    return right.ok if caller.reach == "inside" else right.outside


@pytest.mark.parametrize("who", CALLERS)
def test_each_credential_gets_what_it_may_and_nothing_else(
    engine: Any, as_key: Any, office: Office, api: Any, who: str
) -> None:
    """One caller at every route. The memory stands there anew where the last one changed it."""
    caller = CALLERS[who](office)
    as_caller = as_key(caller.key)
    as_caller.headers |= caller.headers
    memory: Memory | None = None
    for name, method, path in ROUTES:
        cell = f"{who}: {method} /{path}"
        right = TABLE.get((name, method))
        if right is None:
            pytest.fail(f"{cell}: say in TABLE which scope the route '{name}' needs")
        if memory is None:
            memory = Memory.objects.get(
                id=api.add("Alice drinks tea", metadata={"secret": "cinnamon"})
            )
        Attempt.objects.all().delete()  # how often one may try is another question
        answer = as_caller(method, right.path.format(id=memory.id), right.body)
        wanted = expected(right, caller)
        assert answer.status_code == wanted, f"{cell}: {answer.content[:300]!r}"
        inside = wanted == right.ok and caller.reach == "inside"
        content = b"".join(answer) if answer.streaming else answer.content
        if not inside:
            assert b"cinnamon" not in content and b"drinks tea" not in content, cell
        after = Memory.objects.get(id=memory.id)
        if not (inside and right.changes):
            assert (after.rev, after.text) == (memory.rev, memory.text), cell
            assert after.deleted_at is None, cell
            continue
        if method == "DELETE":
            assert after.deleted_at is not None, cell
        api.delete("/memories?user_id=alice")
        memory = None


def test_methods_that_a_route_does_not_have_change_nothing(api: Any, as_key: Any) -> None:
    id_ = api.add("tea")
    served = {(name, method) for name, method, _ in ROUTES}
    for (name, _), right in TABLE.items():
        for method in METHODS:
            if (name, method) not in served:
                body = {} if method in {"POST", "PUT", "PATCH"} else None
                # What is over is over for every method.
                refused = 410 if right.ok == 410 else 405
                answer = api(method, right.path.format(id=id_), body)
                assert answer.status_code == refused, (name, method)
                answer = as_key(None)(method, right.path.format(id=id_), body)
                assert answer.status_code in {401, refused}, (name, method)
    assert Memory.objects.get(id=id_).rev == 1


def test_head_and_options_reach_no_further_than_get(api: Any, as_key: Any) -> None:
    id_ = api.add("tea")
    for right in TABLE.values():
        path = right.path.format(id=id_)
        for method in ("HEAD", "OPTIONS"):
            status = as_key(None)(method, path).status_code
            assert (status in {401, 405}) or right.needs in {PUBLIC, PAGE}, (method, path)
            assert api(method, path).status_code < 500, (method, path)
    assert Memory.objects.get(id=id_).rev == 1


def test_health_tells_an_anonymous_caller_no_more_than_whether_it_is_well(
    client: Any, engine: Any
) -> None:
    assert client.get("/healthz").json().keys() <= {"ok", "qdrant", "failing"}
