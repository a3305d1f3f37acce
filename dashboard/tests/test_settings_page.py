"""The settings of the server: late interaction on and off, how far it is, what is kept removed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.models import Account, Role
from mem0dash.errors import ConflictError
from memories import configuration, late_interaction, runtime
from memories.late_interaction import Status
from memories.models import MemoryTokens
from memories.server_state import EngineConfig
from memories.tests.actions import add
from memories.tests.pages import HTMX, addresses, signed_in, text_of
from memories.tests.reading import local_model, reading_engine

pytestmark = pytest.mark.one_form

PAGE = "/dashboard/settings"
SWITCH = f"{PAGE}/late-interaction"
REMOVE = f"{SWITCH}/remove"


@pytest.fixture(scope="module")
def model() -> Any:
    return local_model()


@pytest.fixture(autouse=True)
def running(db: None, model: Any, tmp_path: Path) -> Iterator[runtime.Runtime]:
    with reading_engine(model, tmp_path) as made:
        yield made


@pytest.fixture
def browser(alice: Account) -> Client:
    return signed_in(alice)


def shown(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The page is about this from now on."""
    told: dict[str, Any] = {"is_on": True, "by_environment": True, "model": "ready"}
    told |= {"made": 12_345, "live": 20_000, "kept": 12_345, "bytes": 37_000_000} | changes
    monkeypatch.setattr(late_interaction, "status", lambda _: Status(**told))


def plain(answer: Any) -> str:
    """The words of the page."""
    assert answer.status_code == 200
    text = re.sub(r"<[^>]+>", " ", text_of(answer)).replace("\xa0", " ")
    return re.sub(r"\s+", " ", text)


def test_it_is_switched_off_and_on_again(
    browser: Client, owner: Any, running: runtime.Runtime
) -> None:
    add(owner, "Drinks tea", "Owns a boat")
    page = browser.get(PAGE)
    assert "Late interaction On" in plain(page) and "2 of 2 memories (100 %)" in plain(page)
    assert "By the environment" in plain(page) and "Remove" not in plain(page)
    answer = browser.post(SWITCH, {"on": "0"}, follow=True)
    assert answer.redirect_chain == [(PAGE, 302)]
    assert "Late interaction is off. What is kept stays until it is removed." in plain(answer)
    assert "Late interaction Off" in plain(answer) and "Here, over what" in plain(answer)
    assert running.engine.reader is None
    [row] = EngineConfig.objects.all()
    assert row.account_id == owner.account_id and "late interaction" in row.reason
    assert MemoryTokens.objects.count() == 2
    answer = browser.post(SWITCH, {"on": "1"}, follow=True)
    assert "Late interaction is on. What is kept is used from now on." in plain(answer)
    assert running.engine.reader is not None and "By the environment" in plain(answer)


def test_what_is_kept_is_removed_after_a_look_at_how_much(browser: Client, owner: Any) -> None:
    add(owner, "Drinks tea", "Owns a boat")
    browser.post(SWITCH, {"on": "0"})
    [way] = addresses(browser.get(PAGE), "remove")
    look = browser.get(way)
    assert way == REMOVE and "Remove the data of 2 memories?" in plain(look)
    assert MemoryTokens.objects.count() == 2
    answer = browser.post(REMOVE, follow=True)
    assert "Removed what was kept of 2 memories." in plain(answer)
    assert not MemoryTokens.objects.exists()
    # Then there is nothing left to remove.
    assert "0 of 2 memories (0 %)" in plain(answer) and not addresses(answer, "remove")
    assert "Nothing is kept" in plain(browser.get(REMOVE, follow=True))


def test_nothing_is_removed_while_it_is_on(browser: Client, owner: Any, monkeypatch: Any) -> None:
    add(owner, "Drinks tea")
    for answer in (browser.get(REMOVE, follow=True), browser.post(REMOVE, follow=True)):
        assert answer.redirect_chain == [(PAGE, 302)]
        assert "switch it off before" in plain(answer)
    assert MemoryTokens.objects.count() == 1
    # Somebody else switches it on between the two.
    shown(monkeypatch, is_on=False)
    answer = browser.post(REMOVE, follow=True)
    assert "switch it off before" in plain(answer)
    assert MemoryTokens.objects.count() == 1


@pytest.mark.parametrize("sent", [{}, {"on": ""}, {"on": "2"}, {"on": "true"}])
def test_what_is_neither_on_nor_off_changes_nothing(browser: Client, sent: dict[str, str]) -> None:
    answer = browser.post(SWITCH, sent)
    assert answer.status_code == 400 and "with 1 and off with 0" in text_of(answer)
    assert not EngineConfig.objects.exists()


def test_a_change_that_others_got_in_the_way_of_is_told(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ConflictError("The configuration was changed by someone else just now; try again.")

    monkeypatch.setattr(late_interaction, "switch", refuse)
    answer = browser.post(SWITCH, {"on": "0"}, follow=True)
    assert "by someone else just now" in plain(answer) and "Late interaction On" in plain(answer)


@pytest.mark.parametrize("role", list(Role))
def test_it_is_the_instance_owners_alone(bob: Account, role: Role, owner: Any) -> None:
    add(owner, "Drinks tea")
    browser = signed_in(bob, role)
    assert b"Late interaction" not in browser.get(PAGE).content
    for answer in (browser.get(REMOVE), browser.get(PAGE, headers=HTMX)):
        assert answer.status_code == 403 and b"3.0" not in answer.content
    for path, sent in ((SWITCH, {"on": "0"}), (REMOVE, {})):
        assert browser.post(path, sent).status_code == 403
    assert configuration.current().late_interaction and MemoryTokens.objects.count() == 1


def test_the_owner_finds_it_in_the_rail(browser: Client) -> None:
    assert f'href="{PAGE}"' in browser.get("/dashboard").content.decode()


@pytest.mark.parametrize("path", [PAGE, REMOVE])
def test_nobody_gets_there_without_signing_in(db: None, alice: Account, path: str) -> None:
    answer = Client().get(path)
    assert answer.status_code == 302 and "/login" in answer["Location"]


@pytest.mark.parametrize("path", [SWITCH, REMOVE])
def test_forms_of_other_sites_are_refused(alice: Account, path: str) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(alice)
    assert browser.post(path, {"on": "0"}).status_code == 403
    assert configuration.current().late_interaction


def test_progress_is_told_and_asks_for_itself_until_it_is_complete(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(monkeypatch)
    page = browser.get(PAGE)
    assert "12,345 of 20,000 memories (61 %)" in plain(page)
    assert "35.3 MB, 2.9 KB a memory" in plain(page)
    assert '<progress class="op-progress" value="12345" max="20000"' in text_of(page)
    assert 'hx-trigger="every 3s"' in text_of(page)
    partial = browser.get(PAGE, headers=HTMX)
    assert text_of(partial).startswith(' <div id="late-progress"') and "hx-get" in text_of(partial)
    assert "<form" not in text_of(partial)
    # Of a million they are not counted all the time.
    shown(monkeypatch, live=1_000_000)
    assert 'hx-trigger="every 30s"' in text_of(browser.get(PAGE))
    # Nearly all is not all.
    shown(monkeypatch, made=19_999)
    assert "(99 %)" in plain(browser.get(PAGE)) and "hx-get" in text_of(browser.get(PAGE))
    shown(monkeypatch, made=20_000)
    assert "(100 %)" in plain(browser.get(PAGE)) and "hx-get" not in text_of(browser.get(PAGE))


@pytest.mark.parametrize(
    ("state", "told", "moves"),
    [
        ("ready", "Local model Ready", True),
        ("loading", "Local model Loading", True),
        ("missing", "Run make embedder", False),
    ],
)
def test_the_state_of_the_model_is_told_with_what_to_do(
    browser: Client, monkeypatch: pytest.MonkeyPatch, state: str, told: str, moves: bool
) -> None:
    shown(monkeypatch, model=state)
    page = browser.get(PAGE)
    assert told in plain(page) and ("hx-get" in text_of(page)) is moves
    assert ("The local model is missing" in plain(page)) is (state == "missing")


def test_a_server_without_memories_has_nothing_to_tell(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = browser.get(PAGE)
    assert "Memories None yet" in plain(page) and "Storage None" in plain(page)
    assert "hx-get" not in text_of(page) and "<progress" not in text_of(page)
    shown(monkeypatch, is_on=False, made=0)
    page = browser.get(PAGE)
    assert "0 of 20,000 memories (0 %)" in plain(page) and "hx-get" not in text_of(page)
    # Of an earlier model, or of what is deleted.
    assert "Storage 35.3 MB, 2.9 KB a memory" in plain(page)
    assert addresses(page, "remove") == [REMOVE]
