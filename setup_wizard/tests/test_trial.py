"""The last step, on a real server below a path: one memory is added, found, and gone again.

The server has a model provider that can be told to misbehave.
"""

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from memories.tests.provider import Provider
from prove.server import Server
from setup_wizard.tests.wizard import (
    HOSTILE,
    KEY,
    NO_PROVIDER,
    PROVIDER_KEY,
    assert_inert,
    embedder_at,
    form_token,
    llm_at,
    shown_key,
    text_of,
)

pytestmark = pytest.mark.one_form

TOKEN = "a-token-from-the-operator"
EMAIL, PASSWORD = "eve@example.org", "correct horse battery"
SAYS = {"message": "I collect cinnamon tins.", "question": "Which tins do I collect?"}
# What is there of a memory besides its row, which goes on to say that there was one.
KEPT = ("memoryvector", "addinput", "ingestclaim", "sessionmessage")


class Visitor:
    """A browser without a script."""

    def __init__(self, server: Server) -> None:
        self.http = httpx.Client(base_url=f"{server.url}/mem", trust_env=False, timeout=60)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def post(self, path: str, fields: dict[str, str] | None = None, *, of: str = "") -> Any:
        """Sends the form of the page `of`, which is that of `path` mostly."""
        token = form_token(self.get(of or path))
        return self.http.post(path, data={**(fields or {}), "csrfmiddlewaretoken": token})

    def sign_in(self) -> httpx.Response:
        fields = {"email": EMAIL, "password": PASSWORD, "next": ""}
        answer: httpx.Response = self.post("/login", fields)
        return answer

    def try_out(self, **fields: str) -> Any:
        answer = self.post("/setup/test", {**SAYS, **fields})
        # The key of the test is never shown.
        assert "m0sk_" not in re.sub(r"m0sk_\S{7}…", "", text_of(answer))
        return answer


class Wizard:
    """A server at its last step, the browser of its owner, and its provider."""

    def __init__(self, server: Server, provider: Provider) -> None:
        self.server, self.provider = server, provider
        self.visitor = Visitor(server)
        self.key = self._set_up()

    def _set_up(self) -> str:
        owner = {"name": "Eve", "email": EMAIL, "password": PASSWORD, "setup_token": TOKEN}
        answer = self.visitor.post("/setup", owner)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/mem/setup/provider")
        self.choose(llm_at(self.provider, api_key=PROVIDER_KEY))
        answer = self.visitor.post("/setup/key", {**KEY, "rights": "all"})
        assert f"curl {self.server.url}/mem/memories" in text_of(answer)
        answer_of_use_case = self.visitor.post("/setup/use-case", {"action": "skip"})
        assert answer_of_use_case.headers["Location"] == "/mem/setup/test"
        return shown_key(answer)

    def choose(self, llm: dict[str, str]) -> None:
        embedder = embedder_at(self.provider, api_key=PROVIDER_KEY)
        sent = {**NO_PROVIDER, **llm, **embedder, "action": "save"}
        answer = self.visitor.post("/setup/provider", sent)
        assert answer.status_code == 302, text_of(answer)

    def rows(self, query: str) -> list[Any]:
        return self._read(lambda database: database.execute(query).fetchall())

    def _read(self, ask: Callable[[sqlite3.Connection], list[Any]]) -> list[Any]:
        path = self.server.data_dir / "mem0dash.sqlite3"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return ask(database)

    def dump(self) -> list[str]:
        """Every row of every table, as SQL."""
        return self._read(lambda database: list(database.iterdump()))

    def assert_clean(self) -> None:
        """Nothing that the test has stored is left, and no key that it used."""
        for table in KEPT:
            assert not self.rows(f"SELECT * FROM memories_{table}"), table
        assert not self.rows("SELECT * FROM memories_memory WHERE deleted_at IS NULL OR text <> ''")
        assert "cinnamon" not in "\n".join(self.dump())
        keys = self.rows("SELECT label, revoked_at, entity_limit, scopes FROM apikeys_apikey")
        assert [label for label, revoked, _, _ in keys if revoked is None] == ["First key"]
        used = [key for key in keys if key[0] == "Set-up test"]
        assert all("setup-test-" in limit and "admin" not in scopes for _, _, limit, scopes in used)
        whole = self.server.client(self.key)
        assert whole.request("GET", "/entities").json() == []
        whole.close()


@pytest.fixture(scope="module")
def _wizard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wizard]:
    environment = {"SETUP_TOKEN": TOKEN, "PROVIDER_ATTEMPTS": "1", "PROVIDER_TIMEOUT": "5"}
    server = Server(tmp_path_factory.mktemp("trial") / "data", environment)
    server.environment["PUBLIC_URL"] = f"{server.url}/mem"
    with Provider(dims=64, api_key=PROVIDER_KEY) as provider:
        try:
            server.start()
            yield Wizard(server, provider)
        finally:
            server.kill9()


@pytest.fixture
def wizard(_wizard: Wizard) -> Iterator[Wizard]:
    _wizard.provider.reset_counts()
    yield _wizard
    _wizard.provider.heal()


def test_a_memory_is_added_and_found_as_any_client_would(wizard: Wizard) -> None:
    page = wizard.visitor.get("/setup/test")
    assert page.status_code == 200 and "Finish without the test" in text_of(page)
    answer = wizard.visitor.try_out()
    assert answer.status_code == 200
    text = text_of(answer)
    assert "Added, found and removed" in text
    assert '<p class="found">I collect cinnamon tins.</p>' in text
    assert re.search(r"Both took [\d,]+ ms\.", text)
    for call in ("POST</span><code>/memories", "POST</span><code>/search", "DELETE</span><code>/"):
        assert call in text
    assert "Open the dashboard" in text
    assert "I collect cinnamon tins." in str(wizard.provider.chat.requests[-1].body)
    wizard.assert_clean()


def test_what_it_says_it_sends_is_what_it_sends(wizard: Wizard) -> None:
    shown = re.findall(
        r'aria-label="Sent">(.*?)</pre>', wizard.visitor.try_out().content.decode(), re.DOTALL
    )
    assert len(shown) == 2
    assert "I collect cinnamon tins." in shown[0] and "Which tins do I collect?" in shown[1]


def test_a_model_that_keeps_nothing_is_told_of(wizard: Wizard) -> None:
    wizard.provider.chat.empty_list()
    text = text_of(wizard.visitor.try_out(message="Hello!"))
    assert "The model found nothing worth keeping" in text
    assert "Finish without the test" in text
    wizard.assert_clean()


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda p: p.chat.fail(500), "Provider is unreachable or returned a server error."),
        (lambda p: p.chat.fail(401), "Check your LLM provider API key"),
        (lambda p: p.chat.broken_json(), "Provider answered with something that cannot be used."),
        (lambda p: p.embeddings.fail(500), "Provider is unreachable or returned a server error."),
    ],
    ids=["an error", "the key", "no JSON", "the embedder"],
)
def test_a_provider_that_fails_is_told_of_and_leaves_nothing_behind(
    wizard: Wizard, break_it: Any, told: str
) -> None:
    break_it(wizard.provider)
    answer = wizard.visitor.try_out()
    assert answer.status_code == 200
    text = text_of(answer)
    assert "The memory could not be added" in text and told in text
    assert PROVIDER_KEY not in text
    # Else the overview would speak of a failed add that nobody has to look after.
    wizard.assert_clean()
    # It can be tried again at once.
    wizard.provider.heal()
    assert "Added, found and removed" in text_of(wizard.visitor.try_out())


def test_a_search_that_fails_does_not_leave_the_memory_behind(wizard: Wizard) -> None:
    fault = wizard.provider.embeddings.fail(500)
    fault.applies = lambda body: "gather" in str(body)
    # Words that were not asked for before, for what was is remembered.
    answer = wizard.visitor.try_out(question="Which tins do I gather?")
    assert answer.status_code == 200
    assert fault.used
    wizard.assert_clean()


def test_a_question_that_finds_nothing_is_told_of(wizard: Wizard) -> None:
    wizard.provider.chat.answer_memories("Sails on Tuesdays")
    text = text_of(wizard.visitor.try_out(question="zzz qqq"))
    assert "It was added, but that question did not find it" in text
    assert "Ask something that the sentence answers." in text
    wizard.assert_clean()


def test_several_memories_of_one_message_are_all_removed(wizard: Wizard) -> None:
    answer = wizard.visitor.try_out(message="I collect cinnamon tins. I sail. I fly from Oslo.")
    text = text_of(answer)
    assert "Added, found and removed" in text
    assert text.count("DELETE</span>") == 3
    wizard.assert_clean()


def test_without_an_llm_the_message_is_kept_as_it_is(wizard: Wizard) -> None:
    wizard.choose({"llm": "none"})
    try:
        wizard.provider.reset_counts()
        text = text_of(wizard.visitor.try_out())
        assert "Added, found and removed" in text
        assert wizard.provider.chat.count == 0
        wizard.assert_clean()
    finally:
        wizard.choose(llm_at(wizard.provider, api_key=PROVIDER_KEY))


def test_two_tests_at_once_do_not_meet(wizard: Wizard) -> None:
    wizard.provider.chat.slow(0.2)
    token = form_token(wizard.visitor.get("/setup/test"))
    texts: list[str] = []
    start = threading.Barrier(3)

    def run(number: int) -> None:
        fields = {
            "message": f"I collect {number} cinnamon tins.",
            "question": "Which tins do I collect?",
            "csrfmiddlewaretoken": token,
        }
        cookies = dict(wizard.visitor.http.cookies)
        start.wait(20)
        answer = httpx.post(
            f"{wizard.server.url}/mem/setup/test",
            data=fields,
            headers={"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())},
            trust_env=False,
            timeout=60,
        )
        texts.append(f"{number}: {text_of(answer)}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 3
    for text in texts:
        assert "Added, found and removed" in text
        assert f'<p class="found">I collect {text[0]} cinnamon tins.</p>' in text
    wizard.assert_clean()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"message": " "}, "Write a sentence to remember."),
        ({"question": ""}, "Ask something that the sentence answers."),
        ({"message": "x" * 2001}, "at most 2000 characters"),
        ({"question": "x" * 1001}, "at most 1000 characters"),
        ({"message": "a\0b"}, "Null characters are not allowed."),
    ],
)
def test_what_does_not_fit_is_told_and_not_sent(
    wizard: Wizard, fields: dict[str, str], told: str
) -> None:
    keys = len(wizard.rows("SELECT id FROM apikeys_apikey"))
    answer = wizard.visitor.try_out(**fields)
    assert answer.status_code == 422
    assert told in text_of(answer)
    assert len(wizard.rows("SELECT id FROM apikeys_apikey")) == keys
    assert wizard.provider.chat.count == 0


def test_hostile_texts_are_inert(wizard: Wizard) -> None:
    assert_inert(wizard.visitor.try_out(message=HOSTILE, question=HOSTILE))
    wizard.provider.chat.answer_memories(HOSTILE)
    assert_inert(wizard.visitor.try_out())
    wizard.provider.heal()
    wizard.provider.chat.fail(400, message=HOSTILE)
    assert_inert(wizard.visitor.try_out(message=HOSTILE))
    wizard.assert_clean()


def test_set_up_survives_a_restart_and_ends_for_good(wizard: Wizard) -> None:
    """The last of all: after it the wizard is closed."""
    server = wizard.server
    server.restart()
    assert "Set-up is not finished. Go on in a browser:" in server.log.read_text()
    elsewhere = Visitor(server)
    assert elsewhere.get("/setup").headers["Location"] == "/mem/login?next=/mem/setup"
    assert elsewhere.sign_in().headers["Location"] == "/mem/dashboard"
    assert elsewhere.get("/dashboard").headers["Location"] == "/mem/setup"
    assert elsewhere.get("/setup").headers["Location"] == "/mem/setup/test"
    assert "Added, found and removed" in text_of(elsewhere.try_out())
    # The provider's key was kept over the restart, encrypted.
    assert wizard.provider.requests[-1].headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    answer = elsewhere.post("/setup/finish", of="/setup/test")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/mem/dashboard")
    overview = text_of(elsewhere.get("/dashboard"))
    assert "mem0dash is set up." in overview and "cinnamon" not in overview
    assert "No memories yet" in overview and "failed" not in overview.lower()
    wizard.assert_clean()
    token = form_token(elsewhere.get("/dashboard"))
    for path in ("/setup", "/setup/provider", "/setup/test", "/setup/finish"):
        assert elsewhere.get(path).status_code == 410
        sent = {**SAYS, "setup_token": TOKEN, "csrfmiddlewaretoken": token}
        assert elsewhere.http.post(path, data=sent).status_code == 410
    # What the server has written down all that time holds no secret.
    for place in (server.log.read_text(), "\n".join(wizard.dump())):
        for secret in (PROVIDER_KEY, "distinctive", TOKEN, PASSWORD, wizard.key):
            assert secret not in place
