"""Adding and changing memories by hand: shown before it is saved, and nothing lost on the way."""

import html
import re
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from accounts.models import Account
from accounts.tests.signing import sign_in
from core.errors import ProviderError
from memories.editing import service as services
from memories.models import AddInput, Memory
from memories.tests.actions import add
from memories.tests.pages import HOSTILE, LIST, assert_inert, text_of, told, undo_of

pytestmark = [pytest.mark.one_form, pytest.mark.usefixtures("engine")]


@pytest.fixture
def tea(engine: Any, owner: Any) -> UUID:
    [id_] = add(owner, "Drinks tea at four", user_id="mara", metadata={"brand": "Assam"})
    return id_


def fields(answer: Any) -> dict[str, str]:
    """What a form on the page would send, beside its token."""
    page = answer.content.decode()
    inputs = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page)
    areas = re.findall(r'<textarea name="([^"]+)"[^>]*>\n(.*?)</textarea>', page, re.S)
    found = {name: html.unescape(value) for name, value in [*inputs, *areas]}
    return {k: v for k, v in found.items() if k != "csrfmiddlewaretoken"}


def step(signed_in: Client, id_: UUID, name: str, **sent: str) -> Any:
    return signed_in.post(f"{LIST}/{id_}/edit", {"step": name, **sent})


def test_a_change_is_shown_word_by_word_and_then_saved(
    signed_in: Client, tea: UUID, api: Any
) -> None:
    here = f"{LIST}?user_id=mara&id={tea}"
    form = fields(signed_in.get(f"{LIST}/{tea}/edit", {"next": here}))
    assert form["text"] == "Drinks tea at four" and form["next"] == here
    form["text"] = "Drinks green tea at five"
    shown = step(signed_in, tea, "review", **form)
    assert shown.status_code == 200
    assert "Drinks <ins>green </ins>tea at <del>four</del><ins>five</ins>" in text_of(shown)
    assert Memory.objects.get(id=tea).text == "Drinks tea at four"
    saved = step(signed_in, tea, "save", **fields(shown))
    assert saved.status_code == 302 and saved["Location"] == here
    row = Memory.objects.get(id=tea)
    assert (row.text, row.metadata) == ("Drinks green tea at five", {"brand": "Assam"})
    assert api.search("green", "mara")[0]["memory"] == "Drinks green tea at five"
    signed_in.post(undo_of(signed_in))
    row.refresh_from_db()
    assert row.text == "Drinks tea at four"


def test_metadata_is_replaced_and_keeps_what_reviewers_set(
    signed_in: Client, owner: Any, bob: Account
) -> None:
    [id_] = add(owner, "Runs", metadata={"confidence": "low", "old": 1, "review_status": "stale"})
    Memory.objects.filter(id=id_).update(confidence="high", review_status="approved")
    form = fields(signed_in.get(f"{LIST}/{id_}/edit"))
    form["metadata"] = '{"confidence": "low", "review_status": "stale", "new": [1, "é"]}'
    shown = step(sign_in(bob), id_, "review", **form)
    assert "Text, unchanged" in text_of(shown) and "Metadata" in text_of(shown)
    assert step(sign_in(bob), id_, "save", **fields(shown)).status_code == 302
    row = Memory.objects.get(id=id_)
    assert row.metadata == {"confidence": "low", "review_status": "stale", "new": [1, "é"]}
    # They stand in the metadata as before: that says nothing anew.
    assert (row.confidence, row.review_status) == ("high", "approved")


def test_line_ends_of_browsers_are_no_change(signed_in: Client, owner: Any) -> None:
    [id_] = add(owner, "One\nTwo\n")
    form = fields(signed_in.get(f"{LIST}/{id_}/edit")) | {"text": "One\r\nTwo\r\n"}
    same = step(signed_in, id_, "review", **form)
    assert same.status_code == 422 and "Nothing has changed yet" in text_of(same)
    form["text"] = "One\r\nThree\r\n"
    assert step(signed_in, id_, "save", **form).status_code == 302
    assert Memory.objects.get(id=id_).text == "One\nThree\n"


def test_a_change_by_others_is_shown_beside_mine_and_nothing_is_lost(
    signed_in: Client, tea: UUID, owner: Any
) -> None:
    form = fields(signed_in.get(f"{LIST}/{tea}/edit"))
    form["text"] = "Drinks tea at six"
    services.update_memory(owner, tea, text="Drinks coffee at four")
    for name in ("review", "save"):
        conflict = step(signed_in, tea, name, **form)
        assert conflict.status_code == 409
        text = text_of(conflict)
        assert "Drinks coffee at four" in text and "Drinks tea at six" in text
        assert "<del>coffee</del><ins>tea</ins>" in text
    assert Memory.objects.get(id=tea).text == "Drinks coffee at four"
    # Going on with mine, knowing theirs.
    again = step(signed_in, tea, "edit", **fields(conflict))
    assert fields(again)["text"] == "Drinks tea at six"
    assert step(signed_in, tea, "save", **fields(again)).status_code == 302
    assert Memory.objects.get(id=tea).text == "Drinks tea at six"


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"text": " \n"}, "Enter the text"),
        ({"metadata": "{"}, "This is no JSON"),
        ({"metadata": '["a"]'}, "Enter an object"),
        ({"metadata": '{"a": NaN}'}, "This is no JSON"),
        ({"metadata": '{"a": 1e400}'}, "This is no JSON"),
        ({"metadata": r'{"a": "\ud800"}'}, "This is no JSON"),
        ({"metadata": r'{"\ud800": 1}'}, "This is no JSON"),
        ({"metadata": r'{"source": "\u0000"}'}, "NUL characters"),
        ({"metadata": '{"a":' * 70 + "1" + "}" * 70}, "nested deeper"),
        ({"metadata": "[" * 100_000}, "This is no JSON"),
        ({"text": "x" * 50_001}, "50000"),
        ({"text": "a\0b"}, "Null characters"),
        ({"rev": "x"}, ""),
        ({"rev": ""}, ""),
    ],
)
def test_what_does_not_fit_is_told_and_changes_nothing(
    signed_in: Client, tea: UUID, sent: dict[str, str], sentence: str
) -> None:
    form = fields(signed_in.get(f"{LIST}/{tea}/edit"))
    for name in ("review", "save", ""):
        answer = step(signed_in, tea, name, **form | sent)
        assert answer.status_code == 422
        assert sentence in text_of(answer)
    assert Memory.objects.get(id=tea).text == "Drinks tea at four"


def test_without_the_embedder_what_was_written_is_kept(
    signed_in: Client, tea: UUID, embedder: Any
) -> None:
    form = fields(signed_in.get(f"{LIST}/{tea}/edit")) | {"text": "Drinks water"}
    embedder.error = ProviderError("Provider is unreachable.", code="provider_unavailable")
    answer = step(signed_in, tea, "save", **form)
    assert answer.status_code == 502
    assert "Provider is unreachable. Nothing was changed." in text_of(answer)
    assert fields(answer)["text"] == "Drinks water"
    assert Memory.objects.get(id=tea).text == "Drinks tea at four"


def test_hostile_text_is_inert_while_it_is_written(
    signed_in: Client, tea: UUID, owner: Any
) -> None:
    form = fields(signed_in.get(f"{LIST}/{tea}/edit")) | {"text": HOSTILE}
    assert_inert(step(signed_in, tea, "review", **form))
    assert_inert(step(signed_in, tea, "review", **form | {"metadata": "{"}))
    services.update_memory(owner, tea, text=f"{HOSTILE} theirs")
    assert_inert(step(signed_in, tea, "review", **form))


# --- Adding --------------------------------------------------------------------------------------


def test_a_memory_is_added_word_for_word(signed_in: Client, api: Any) -> None:
    sent = {
        "text": "Plays the cello",
        "user_id": "mara",
        "agent_id": "tutor",
        "source": "dashboard",
        "confidence": "high",
        "last_day": "2031-05-06",
        "metadata": '{"since": 2019}',
    }
    answer = signed_in.post(f"{LIST}/add", sent)
    row = Memory.objects.get()
    assert answer.status_code == 302 and answer["Location"] == f"{LIST}?id={row.id}"
    assert (row.text, row.user_id, row.agent_id) == ("Plays the cello", "mara", "tutor")
    assert (row.source, row.confidence, str(row.expiration_date)) == (
        "dashboard",
        "high",
        "2031-05-06",
    )
    assert row.metadata["since"] == 2019
    assert api.search("cello", "mara")[0]["id"] == str(row.id)
    assert told(signed_in) == ["Memory added."]


def test_without_a_language_model_there_is_no_choice(signed_in: Client) -> None:
    text = text_of(signed_in.get(f"{LIST}/add?user_id=mara"))
    assert "Stored word for word: no language model is configured" in text
    assert 'name="how"' not in text
    assert 'value="mara"' in text


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"text": ""}, "Enter the text"),
        ({"user_id": ""}, "At least one identifier"),
        ({"user_id": "a b"}, "whitespace"),
        ({"user_id": "x" * 256}, "at most 255"),
        ({"last_day": "soon"}, "such as 2026-11-20"),
        ({"confidence": "0.7"}, "not one of the available choices"),
        ({"metadata": "[]"}, "Enter an object"),
        ({"userid": "ann"}, "does not understand “userid”"),
        ({"agent": "claude"}, "does not understand “agent”"),
        ({"lastday": "2031-05-06"}, "does not understand “lastday”"),
    ],
)
def test_an_add_that_does_not_fit_stores_nothing(
    signed_in: Client, sent: dict[str, str], sentence: str
) -> None:
    answer = signed_in.post(f"{LIST}/add", {"text": "Plays the cello", "user_id": "mara", **sent})
    assert answer.status_code == 422
    assert sentence in text_of(answer)
    assert not Memory.objects.exists()


def test_an_add_that_fails_keeps_what_was_written(signed_in: Client, embedder: Any) -> None:
    embedder.error = ProviderError("Provider is unreachable.", code="provider_unavailable")
    answer = signed_in.post(f"{LIST}/add", {"text": "Plays the cello", "user_id": "mara"})
    assert answer.status_code == 502
    assert "Provider is unreachable." in text_of(answer)
    assert fields(answer)["text"] == "Plays the cello"
    assert AddInput.objects.get().outcome == "failed" and not Memory.objects.exists()


def test_adding_needs_a_session_and_its_token(alice: Account, engine: Any) -> None:
    sent = {"text": "Plays the cello", "user_id": "mara"}
    strict = sign_in(alice, enforce_csrf_checks=True)
    assert strict.post(f"{LIST}/add", sent).status_code == 403
    assert Client().post(f"{LIST}/add", sent).status_code == 302
    assert not Memory.objects.exists()
