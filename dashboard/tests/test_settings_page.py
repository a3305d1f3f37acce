"""The settings of the server: late interaction on and off, how far it is, what is kept removed."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from accounts.models import Account, Role
from accounts.tests.signing import sign_in
from core.errors import ConflictError
from memories import runtime
from memories.engine import configuration
from memories.models import MemoryTokens
from memories.models.server import EngineConfig
from memories.providers import late_interaction
from memories.providers.late_interaction import LateInteractionStatus
from memories.tests.actions import add
from memories.tests.pages import HTMX, addresses, text_of
from memories.tests.reading import local_model, reading_engine
from memories.tests.spare_index import SpareIndex

pytestmark = pytest.mark.one_form

PAGE = "/dashboard/settings"
SWITCH = f"{PAGE}/late-interaction"
REMOVE = f"{SWITCH}/remove"


@pytest.fixture(scope="module")
def model() -> Any:
    return local_model()


@pytest.fixture(autouse=True)
def running(db: None, model: Any, spare_index: SpareIndex) -> Iterator[runtime.Runtime]:
    with reading_engine(model, spare_index) as made:
        yield made


def shown(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The page is about this from now on."""
    told: dict[str, Any] = {"is_on": True, "by_environment": True, "model": "ready"}
    told |= {"made": 12_345, "live": 20_000, "kept": 12_345, "bytes": 37_000_000} | changes
    monkeypatch.setattr(late_interaction, "status", lambda _: LateInteractionStatus(**told))


def plain(answer: Any) -> str:
    """The words of the page."""
    assert answer.status_code == 200
    text = re.sub(r"<[^>]+>", " ", text_of(answer)).replace("\xa0", " ")
    return re.sub(r"\s+", " ", text)


def test_it_is_switched_off_and_on_again(
    signed_in: Client, owner: Any, running: runtime.Runtime
) -> None:
    add(owner, "Drinks tea", "Owns a boat")
    page = signed_in.get(PAGE)
    assert "Late interaction On" in plain(page) and "2 of 2 memories (100 %)" in plain(page)
    assert "By the environment" in plain(page) and "Remove" not in plain(page)
    answer = signed_in.post(SWITCH, {"on": "0"}, follow=True)
    assert answer.redirect_chain == [(PAGE, 302)]
    assert "Late interaction is off. What is kept stays until it is removed." in plain(answer)
    assert "Late interaction Off" in plain(answer) and "Here, over what" in plain(answer)
    assert running.engine.reader is None
    [row] = EngineConfig.objects.all()
    assert row.account_id == owner.account_id and "late interaction" in row.reason
    assert MemoryTokens.objects.count() == 2
    answer = signed_in.post(SWITCH, {"on": "1"}, follow=True)
    assert "Late interaction is on. What is kept is used from now on." in plain(answer)
    assert running.engine.reader is not None and "By the environment" in plain(answer)


def test_what_is_kept_is_removed_after_a_look_at_how_much(signed_in: Client, owner: Any) -> None:
    add(owner, "Drinks tea", "Owns a boat")
    signed_in.post(SWITCH, {"on": "0"})
    [way] = addresses(signed_in.get(PAGE), "remove")
    look = signed_in.get(way)
    assert way == REMOVE and "Remove the data of 2 memories?" in plain(look)
    assert MemoryTokens.objects.count() == 2
    answer = signed_in.post(REMOVE, follow=True)
    assert "Removed what was kept of 2 memories." in plain(answer)
    assert not MemoryTokens.objects.exists()
    # Then there is nothing left to remove.
    assert "0 of 2 memories (0 %)" in plain(answer) and not addresses(answer, "remove")
    assert "Nothing is kept" in plain(signed_in.get(REMOVE, follow=True))


def test_nothing_is_removed_while_it_is_on(signed_in: Client, owner: Any, monkeypatch: Any) -> None:
    add(owner, "Drinks tea")
    for answer in (signed_in.get(REMOVE, follow=True), signed_in.post(REMOVE, follow=True)):
        assert answer.redirect_chain == [(PAGE, 302)]
        assert "switch it off before" in plain(answer)
    assert MemoryTokens.objects.count() == 1
    # Somebody else switches it on between the two.
    shown(monkeypatch, is_on=False)
    answer = signed_in.post(REMOVE, follow=True)
    assert "switch it off before" in plain(answer)
    assert MemoryTokens.objects.count() == 1


@pytest.mark.parametrize("sent", [{}, {"on": ""}, {"on": "2"}, {"on": "true"}])
def test_what_is_neither_on_nor_off_changes_nothing(
    signed_in: Client, sent: dict[str, str]
) -> None:
    answer = signed_in.post(SWITCH, sent)
    assert answer.status_code == 400 and "with 1 and off with 0" in text_of(answer)
    assert not EngineConfig.objects.exists()


def test_a_change_that_others_got_in_the_way_of_is_told(
    signed_in: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ConflictError("The configuration was changed by someone else just now; try again.")

    monkeypatch.setattr(late_interaction, "switch", refuse)
    answer = signed_in.post(SWITCH, {"on": "0"}, follow=True)
    assert "by someone else just now" in plain(answer) and "Late interaction On" in plain(answer)


@pytest.mark.parametrize("role", list(Role))
def test_it_is_the_instance_owners_alone(bob: Account, role: Role, owner: Any) -> None:
    add(owner, "Drinks tea")
    signed_in = sign_in(bob, role)
    assert b"Late interaction" not in signed_in.get(PAGE).content
    for answer in (signed_in.get(REMOVE), signed_in.get(PAGE, headers=HTMX)):
        assert answer.status_code == 403 and b"3.0" not in answer.content
    for path, sent in ((SWITCH, {"on": "0"}), (REMOVE, {})):
        assert signed_in.post(path, sent).status_code == 403
    assert (
        configuration.current_configuration().late_interaction and MemoryTokens.objects.count() == 1
    )


def test_the_owner_finds_it_in_the_rail(signed_in: Client) -> None:
    assert f'href="{PAGE}"' in signed_in.get("/dashboard").content.decode()


@pytest.mark.parametrize("path", [PAGE, REMOVE])
def test_nobody_gets_there_without_signing_in(db: None, alice: Account, path: str) -> None:
    answer = Client().get(path)
    assert answer.status_code == 302 and "/login" in answer["Location"]


@pytest.mark.parametrize("path", [SWITCH, REMOVE])
def test_forms_of_other_sites_are_refused(alice: Account, path: str) -> None:
    signed_in = sign_in(alice, enforce_csrf_checks=True)
    assert signed_in.post(path, {"on": "0"}).status_code == 403
    assert configuration.current_configuration().late_interaction


def test_progress_is_told_and_asks_for_itself_until_it_is_complete(
    signed_in: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(monkeypatch)
    page = signed_in.get(PAGE)
    assert "12,345 of 20,000 memories (61 %)" in plain(page)
    assert "35.3 MB, 2.9 KB a memory" in plain(page)
    assert '<progress class="op-progress" value="12345" max="20000"' in text_of(page)
    assert 'hx-trigger="every 3s"' in text_of(page)
    partial = signed_in.get(PAGE, headers=HTMX)
    assert text_of(partial).startswith(' <div id="late-progress"') and "hx-get" in text_of(partial)
    assert "<form" not in text_of(partial)
    # Of a million they are not counted all the time.
    shown(monkeypatch, live=1_000_000)
    assert 'hx-trigger="every 30s"' in text_of(signed_in.get(PAGE))
    # Nearly all is not all.
    shown(monkeypatch, made=19_999)
    assert "(99 %)" in plain(signed_in.get(PAGE)) and "hx-get" in text_of(signed_in.get(PAGE))
    shown(monkeypatch, made=20_000)
    assert "(100 %)" in plain(signed_in.get(PAGE)) and "hx-get" not in text_of(signed_in.get(PAGE))


@pytest.mark.parametrize(
    ("state", "told", "moves"),
    [
        ("ready", "Local model Ready", True),
        ("loading", "Local model Loading", True),
        ("missing", "Run make embedder", False),
    ],
)
def test_the_state_of_the_model_is_told_with_what_to_do(
    signed_in: Client, monkeypatch: pytest.MonkeyPatch, state: str, told: str, moves: bool
) -> None:
    shown(monkeypatch, model=state)
    page = signed_in.get(PAGE)
    assert told in plain(page) and ("hx-get" in text_of(page)) is moves
    assert ("The local model is missing" in plain(page)) is (state == "missing")


def test_a_server_without_memories_has_nothing_to_tell(
    signed_in: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = signed_in.get(PAGE)
    assert "Memories None yet" in plain(page) and "Storage None" in plain(page)
    assert "hx-get" not in text_of(page) and "<progress" not in text_of(page)
    shown(monkeypatch, is_on=False, made=0)
    page = signed_in.get(PAGE)
    assert "0 of 20,000 memories (0 %)" in plain(page) and "hx-get" not in text_of(page)
    # Of an earlier model, or of what is deleted.
    assert "Storage 35.3 MB, 2.9 KB a memory" in plain(page)
    assert addresses(page, "remove") == [REMOVE]
