"""Tokens of OAuth on PostgreSQL with two web processes: refreshed at once, replayed, and ended."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import psycopg
import pytest

from prove.connected_apps import PASSWORD, App, Person, Tokens, call, headers, message
from prove.pair import Pair
from prove.postgres import Cluster
from prove.test_providers import Stub

TOGETHER: Final = 8
BOB: Final = "bob@example.org"
SECONDS: Final = 30.0
# A reviewer of project Default, whose password is that of the owner.
MAKE_BOB: Final = (
    "from accounts.models import Account, Membership, Project, Role\n"
    f"bob, made = Account.objects.get_or_create(email={BOB!r}, defaults={{'name': 'Bob'}})\n"
    f"bob.is_active = True; bob.set_password({PASSWORD!r}); bob.save()\n"
    "Membership.objects.update_or_create(account=bob,"
    " project=Project.objects.get(slug='default'), defaults={'role': Role.REVIEWER})\n"
)


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, postgres: Cluster, model: str, stub: Stub
) -> Iterator[Pair]:
    environment = {
        "OPENAI_BASE_URL": f"{stub.origin}/v1",
        "OPENAI_API_KEY": "sk-stub",
        # These proofs fail more often than a client would.
        "RATE_LIMIT_TOKEN_FAILURES": "0",
        "RATE_LIMIT_AUTH_FAILURES": "0",
    }
    url = postgres.create_database("tokens")
    with Pair(tmp_path_factory.mktemp("tokens"), url, environment) as made:
        yield made


def sql(pair: Pair, statement: str, *values: Any) -> None:
    with psycopg.connect(pair.database_url, autocommit=True) as connection:
        connection.execute(statement, values)  # type: ignore[arg-type]  # ours, see below


def refreshed(pair: Pair, app: App, token: str) -> list[httpx.Response]:
    """What both processes answer when one token is refreshed many times at once."""
    ready = threading.Barrier(TOGETHER)

    def refresh(number: int) -> httpx.Response:
        ready.wait()
        return app.refresh(token, pair.servers[number % 2].url)

    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(refresh, range(TOGETHER)))


# --- Refreshing -----------------------------------------------------------------------------------
def test_of_many_refreshes_at_once_each_gets_tokens_that_work(pair: Pair) -> None:
    app = App(pair.url)
    first = app.connect(Person(pair.url))
    given = [Tokens.of(answer) for answer in refreshed(pair, app, first.refresh)]
    assert len({tokens.refresh for tokens in given}) == TOGETHER
    assert [call(pair.url, tokens.access) for tokens in given] == [200] * TOGETHER
    again = [Tokens.of(app.refresh(tokens.refresh)) for tokens in given]
    assert [call(pair.url, tokens.access) for tokens in again] == [200] * TOGETHER


def test_a_replay_after_the_overlap_ends_every_token_of_the_app_and_of_no_other(
    pair: Pair,
) -> None:
    app, other, person = App(pair.url), App(pair.url), Person(pair.url)
    first, untouched = app.connect(person), other.connect(person)
    given = [Tokens.of(answer) for answer in refreshed(pair, app, first.refresh)]
    sql(
        pair,
        "UPDATE oauth_refreshtoken SET revoked = revoked - interval '61 seconds'"
        " WHERE application_id = (SELECT id FROM oauth_application WHERE client_id = %s)",
        app.client_id,
    )
    answers = refreshed(pair, app, first.refresh)
    assert {answer.status_code for answer in answers} == {400}
    assert {answer.json()["error"] for answer in answers} == {"invalid_grant"}
    assert {call(pair.url, tokens.access) for tokens in given} == {401}
    assert {app.refresh(tokens.refresh).status_code for tokens in given} == {400}
    assert call(pair.url, untouched.access) == 200


def test_a_token_that_its_app_gives_back_is_good_for_nothing(pair: Pair) -> None:
    app = App(pair.url)
    tokens = app.connect(Person(pair.url))
    assert app.revoke(tokens.refresh) == 200
    assert call(pair.url, tokens.access) == 401
    assert app.refresh(tokens.refresh).status_code == 400


# --- What ends a token ----------------------------------------------------------------------------
def deactivate(pair: Pair) -> None:
    pair.servers[1].manage("deactivate_account", BOB)


def change_password(pair: Pair) -> None:
    pair.servers[1].manage("reset_password", BOB, "--password", "another long one")


def demote(pair: Pair) -> None:
    sql(
        pair,
        "UPDATE accounts_membership SET role = 'member' FROM accounts_account a"
        " WHERE account_id = a.id AND a.email = %s",
        BOB,
    )


def dismiss(pair: Pair) -> None:
    sql(
        pair,
        "DELETE FROM accounts_membership USING accounts_account a"
        " WHERE account_id = a.id AND a.email = %s",
        BOB,
    )


def revoke(pair: Pair) -> None:
    assert Person(pair.url, BOB).revoke_apps()


@pytest.mark.parametrize(
    ("happens", "status"),
    [(deactivate, 401), (change_password, 401), (demote, 403), (dismiss, 401), (revoke, 401)],
)
def test_a_token_ends_with_what_it_stands_on_and_so_does_an_open_call(
    pair: Pair, stub: Stub, happens: Callable[[Pair], None], status: int
) -> None:
    pair.servers[0].manage("shell", "--verbosity", "0", "--command", MAKE_BOB)
    app = App(pair.url)
    tokens = app.connect(Person(pair.url, BOB), "read", "write", "review")
    assert "memory:review" in tokens.scope
    stub.tell(do="hold")
    try:
        with ThreadPoolExecutor(1) as pool:
            said = f"Bob drinks tea number {app.client_id}."
            open_call = pool.submit(slow_add, pair.servers[0].url, tokens.access, said)
            stub.wait_for(1)
            happens(pair)
            assert reviewed(pair.url, tokens.access) == status
            told = open_call.result(timeout=SECONDS)
    finally:
        stub.tell(do="heal")
    assert "credential" in told
    assert "ADD" not in told
    if status == 401:
        assert app.refresh(tokens.refresh).status_code == 400


def slow_add(url: str, token: str, text: str) -> str:
    """All that comes back from an add that waits for the language model."""
    body = message("tools/call", name="add_memory", arguments={"text": text, "user_id": "bob"})
    sent = {"json": body, "headers": headers(token)}
    return httpx.post(f"{url}/mcp", timeout=2 * SECONDS, trust_env=False, **sent).text


def reviewed(url: str, token: str) -> int:
    """The status of the next call, which takes the right to review."""
    body = message("tools/call", name="review_memory", arguments={"memory_id": "x"})
    sent = {"json": body, "headers": headers(token)}
    return httpx.post(f"{url}/mcp", timeout=SECONDS, trust_env=False, **sent).status_code


# --- The database ---------------------------------------------------------------------------------
def test_calls_go_on_after_the_database_has_dropped_every_connection(pair: Pair) -> None:
    app = App(pair.url)
    tokens = app.connect(Person(pair.url))
    for _ in range(3):
        with ThreadPoolExecutor(TOGETHER) as pool:
            busy = [pool.submit(call, pair.url, tokens.access) for _ in range(4 * TOGETHER)]
            sql(
                pair,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            # What was in the middle of it may fail, but says so.
            assert {one.result(timeout=SECONDS) for one in busy} <= {200, 502}
        after = [call(server.url, tokens.access) for server in pair.servers for _ in range(20)]
        assert set(after) == {200}, after
    assert app.refresh(tokens.refresh).status_code == 200
