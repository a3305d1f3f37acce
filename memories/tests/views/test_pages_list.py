"""The list of memories as people see it: pages, search, filters, states, roles, export."""

import json
import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, Project, Role
from accounts.tests.signing import sign_in
from core.errors import ProviderError
from memories.editing.service import delete_memory
from memories.models import Memory
from memories.tests.actions import add
from memories.tests.pages import (
    HOSTILE,
    HTMX,
    LIST,
    addresses,
    assert_inert,
    text_of,
    texts,
)

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def few(engine: Any, owner: Any) -> list[UUID]:
    """Two memories of mara, one of jonas, the newest first in the list."""
    ids = add(owner, "Drinks tea", user_id="mara")
    ids += add(owner, "Sleeps late", user_id="mara", entities={"agent_id": "opencode"})
    return ids + add(owner, "Runs in the morning", user_id="jonas")


def many(project: Project, count: int) -> None:
    now = timezone.now()
    Memory.objects.bulk_create(
        Memory(
            project=project,
            text=f"Fact {n}",
            text_fold=f"fact {n}",
            fingerprint=f"{n:064d}",
            user_id=f"u{n % 3}",
            created_at=now - timedelta(seconds=n),
            updated_at=now,
            indexed_rev=1,
        )
        for n in range(count)
    )


# --- The list ------------------------------------------------------------------------------------


def test_the_list_shows_the_newest_first_with_an_exact_total(
    signed_in: Client, few: list[UUID]
) -> None:
    answer = signed_in.get(LIST)
    assert answer.status_code == 200
    assert texts(answer) == ["Runs in the morning", "Sleeps late", "Drinks tea"]
    assert '<span class="n tabular" id="total">3</span>' in answer.content.decode()
    assert texts(signed_in.get(f"{LIST}?sort=oldest"))[0] == "Drinks tea"


def test_every_memory_stands_on_exactly_one_page(signed_in: Client, project: Project) -> None:
    many(project, 120)
    seen: list[str] = []
    address = LIST
    while address:
        answer = signed_in.get(address)
        seen += texts(answer)
        following = re.search(r'id="page-next" href="([^"]+)"', answer.content.decode())
        address = following[1].replace("&amp;", "&") if following else ""
    assert seen == [f"Fact {n}" for n in range(120)]
    assert "101–120 of 120" in text_of(signed_in.get(f"{LIST}?page=3"))
    # What lies beyond the end is the end.
    assert texts(signed_in.get(f"{LIST}?page=99999"))[-1] == "Fact 119"


@pytest.mark.parametrize("number", ["-1", "0", "x", "٣", "", "1.0", "9" * 12, "1&page=2"])
def test_a_page_that_is_no_number_is_refused_in_words(signed_in: Client, number: str) -> None:
    answer = signed_in.get(f"{LIST}?page={number}")
    assert answer.status_code == 400
    assert "page" in text_of(answer)


def test_the_list_takes_as_many_statements_for_fifty_as_for_three(
    signed_in: Client, few: list[UUID], project: Project, monkeypatch: Any
) -> None:
    # The frame looks after the server's parts every few seconds.
    monkeypatch.setattr("dashboard.shell.count_problems", lambda: 0)
    signed_in.get(LIST)
    with CaptureQueriesContext(connection) as small:
        signed_in.get(LIST)
    many(project, 200)
    with CaptureQueriesContext(connection) as large:
        signed_in.get(LIST)
    assert len(large) == len(small)


def test_people_see_what_agents_do_not(signed_in: Client, few: list[UUID]) -> None:
    yesterday = timezone.now() - timedelta(days=1)
    Memory.objects.filter(id=few[0]).update(review_status="rejected", expires_at=yesterday)
    answer = signed_in.get(LIST)
    assert "Drinks tea" in texts(answer)
    assert "Rejected" in text_of(answer) and "Expired" in text_of(answer)


def test_deleted_ones_are_listed_for_who_asks_and_may_review(
    signed_in: Client, few: list[UUID], api: Any, bob: Account
) -> None:
    api.delete(f"/memories/{few[0]}")
    assert "Drinks tea" not in texts(signed_in.get(LIST))
    answer = signed_in.get(f"{LIST}?deleted=yes")
    assert texts(answer) == ["Drinks tea"]
    assert 'value="restore"' in answer.content.decode()
    assert sign_in(bob).get(f"{LIST}?deleted=yes").status_code == 403


# --- Searching and filtering ---------------------------------------------------------------------


def test_a_search_says_which_way_it_was_answered(signed_in: Client, few: list[UUID]) -> None:
    by_meaning = signed_in.get(f"{LIST}?q=drinks+tea")
    assert texts(by_meaning)[0] == "Drinks tea"
    assert "Found by meaning" in text_of(by_meaning)
    assert 'class="score"' in by_meaning.content.decode()
    by_words = signed_in.get(f"{LIST}?q=RINKS+T&mode=words")
    assert texts(by_words) == ["Drinks tea"]
    assert "Found by words" in text_of(by_words)
    assert 'class="score"' not in by_words.content.decode()


def test_without_the_embedder_words_answer_and_that_is_told(
    signed_in: Client, few: list[UUID], embedder: Any
) -> None:
    embedder.error = ProviderError("Provider is unreachable.", code="provider_unavailable")
    answer = signed_in.get(f"{LIST}?q=tea")
    assert answer.status_code == 200
    assert "Words answered, not meaning" in text_of(answer)
    assert "provider_unavailable" in text_of(answer)
    assert texts(answer) == ["Drinks tea"]


def test_a_filter_is_a_chip_that_can_be_taken_off(signed_in: Client, few: list[UUID]) -> None:
    answer = signed_in.get(f"{LIST}?user_id=mara&user_id=jonas&agent_id=opencode")
    assert texts(answer) == ["Sleeps late"]
    assert "User: <b" in text_of(answer) and "any of 2" in text_of(answer)
    [without] = [a for a in addresses(answer, r"\?agent_id=opencode$") if a.startswith(LIST + "?")]
    assert texts(signed_in.get(without)) == ["Sleeps late"]


def test_nothing_that_matches_repeats_what_was_asked(signed_in: Client, few: list[UUID]) -> None:
    answer = signed_in.get(f"{LIST}?user_id=nobody&q=xyz&mode=words")
    assert "Nothing matches" in text_of(answer)
    assert "user nobody, with “xyz”" in text_of(answer)
    assert LIST in addresses(answer, "memories$")
    assert "No memories yet" not in text_of(answer)


def test_an_empty_project_shows_how_memories_get_here(signed_in: Client) -> None:
    text = text_of(signed_in.get(LIST))
    assert "No memories yet" in text
    assert "curl http://testserver/memories" in text


def test_where_all_is_deleted_the_way_leads_to_it(
    signed_in: Client, few: list[UUID], owner: Any, bob: Account
) -> None:
    for id_ in few:
        delete_memory(owner, id_)
    answer = signed_in.get(LIST)
    assert "Every memory is deleted" in text_of(answer)
    assert "No memories yet" not in text_of(answer)
    [way] = addresses(answer, "deleted=yes$")
    assert len(texts(signed_in.get(way))) == 3
    # Who may not restore is not sent there.
    member = sign_in(bob, Role.MEMBER).get(LIST)
    assert "No memories yet" in text_of(member) and not addresses(member, "deleted=yes")


def test_a_search_that_finds_nothing_offers_the_other_kind(
    signed_in: Client, few: list[UUID]
) -> None:
    answer = signed_in.get(f"{LIST}?q=zebra&mode=words")
    assert "You asked for: with “zebra”." in text_of(answer)
    assert addresses(answer, r"\?q=zebra$")


def test_the_filters_count_and_make_an_address(signed_in: Client, few: list[UUID]) -> None:
    menu = signed_in.get(f"{LIST}/filters?user_id=jonas")
    text = text_of(menu)
    assert re.search(r'value="mara"> ?<span>mara</span> ?<span class="tabular n">2<', text)
    chosen = r'value="jonas" checked> ?<span>jonas</span> ?<span class="tabular n">1<'
    assert re.search(chosen, text)
    sent = {
        "apply": "1",
        "user_id": ["jonas"],
        "other_user_id": "ma ra",
        "created": "7d",
        "from_updated": "2026-01-02",
        "until_updated": "",
        "other_metadata": "project=atlas",
        "other_agent_id": "",
        "q": "tea",
        "mode": "words",
    }
    answer = signed_in.get(f"{LIST}/filters", sent)
    assert answer.status_code == 302
    assert answer["Location"] == (
        f"{LIST}?q=tea&mode=words&user_id=jonas&user_id=ma+ra&created=7d"
        "&updated=2026-01-02..&metadata=project%3Datlas"
    )


def test_a_filter_that_does_not_fit_is_told_beside_what_was_entered(
    signed_in: Client, few: list[UUID]
) -> None:
    sent = {"apply": "1", "from_created": "2026-12-31", "until_created": "2026-01-01"}
    answer = signed_in.get(f"{LIST}/filters", sent)
    assert answer.status_code == 422
    assert "ends before it begins" in text_of(answer)
    assert 'value="2026-12-31"' in answer.content.decode()
    partial = signed_in.get(f"{LIST}/filters", sent, headers=HTMX)
    assert partial.status_code == 422 and partial["HX-Retarget"] == "#filters"


@pytest.mark.parametrize(
    "query",
    [
        "review_status=good",
        "confidence=1",
        "expiry=x",
        "created=yesterday",
        "sort=x",
        "mode=x",
        "deleted=no",
        "q=%00",
        "q=" + "x" * 1001,
        "&".join(f"user_id={n}" for n in range(101)),
    ],
)
def test_an_address_that_means_nothing_is_told(signed_in: Client, query: str) -> None:
    for path in (LIST, f"{LIST}/export?format=csv&"):
        answer = signed_in.get(f"{path}{'' if '?' in path else '?'}{query}")
        assert answer.status_code == 400, query
        assert "That request cannot be read" in text_of(answer)
    assert signed_in.get(f"{LIST}/filters?{query}").status_code == 200


def test_what_clients_wrote_is_inert_everywhere(signed_in: Client, owner: Any) -> None:
    metadata = {"source": HOSTILE, HOSTILE: HOSTILE}
    [id_] = add(owner, HOSTILE, user_id=HOSTILE.replace(" ", ""), metadata=metadata)
    Memory.objects.update(categories=[HOSTILE])
    for answer in (
        signed_in.get(LIST),
        signed_in.get(f"{LIST}?id={id_}"),
        signed_in.get(LIST, {"user_id": HOSTILE, "q": HOSTILE, "mode": "words"}),
        signed_in.get(f"{LIST}/filters"),
        signed_in.get(f"{LIST}/filters", {"user_id": HOSTILE}),
        signed_in.get(f"{LIST}/{id_}/edit"),
    ):
        assert answer.status_code == 200
        assert_inert(answer)


# --- In pieces, for htmx -------------------------------------------------------------------------


def test_htmx_gets_the_pieces_and_the_address_to_show(signed_in: Client, few: list[UUID]) -> None:
    answer = signed_in.get(f"{LIST}?mode=meaning&q=&user_id=mara", headers=HTMX)
    text = answer.content.decode()
    assert "<html" not in text and 'id="browser"' in text
    assert 'id="total" hx-swap-oob="true">2<' in text
    assert answer["HX-Push-Url"] == f"{LIST}?user_id=mara"
    assert "HX-Request" in answer["Vary"]
    # Back to a page that is no longer kept asks for the whole of it.
    whole = signed_in.get(LIST, headers={**HTMX, "HX-History-Restore-Request": "true"})
    assert "<html" in whole.content.decode()


def test_the_inspector_alone_comes_without_the_list(signed_in: Client, few: list[UUID]) -> None:
    headers = {**HTMX, "HX-Target": "inspector-slot"}
    answer = signed_in.get(f"{LIST}?user_id=mara&id={few[0]}", headers=headers)
    text = answer.content.decode()
    assert f'data-memory="{few[0]}"' in text and 'id="browser"' not in text
    assert answer["HX-Push-Url"] == f"{LIST}?user_id=mara&id={few[0]}"
    closed = signed_in.get(f"{LIST}?user_id=mara", headers=headers)
    assert "data-memory" not in closed.content.decode()


# --- Who may what --------------------------------------------------------------------------------


def test_only_who_may_review_can_select(signed_in: Client, few: list[UUID], bob: Account) -> None:
    reviewing = signed_in.get(f"{LIST}?id={few[0]}").content.decode()
    for control in ('name="ids"', 'name="action"', f"{few[0]}/review", f"{few[0]}/expiry"):
        assert control in reviewing
    member = sign_in(bob).get(f"{LIST}?id={few[0]}").content.decode()
    for control in ('name="ids"', 'name="action"', f"{few[0]}/review", f"{few[0]}/expiry"):
        assert control not in member
    # What a member may: read, add, edit, delete one.
    for control in ("memories/add", f"{few[0]}/edit", f"{few[0]}/delete"):
        assert control in member
    assert 'name="shared"' in reviewing and 'name="shared"' not in member


def test_other_projects_do_not_exist(
    signed_in: Client, few: list[UUID], charlie: Account, other_project: Project
) -> None:
    stranger = sign_in(charlie)
    assert "No memories yet" in text_of(stranger.get(LIST))
    for missing in (few[0], uuid4()):
        answer = stranger.get(f"{LIST}?id={missing}")
        assert "It is not there" in text_of(answer)
        assert "Drinks tea" not in text_of(answer)
    assert stranger.get(f"{LIST}?id=7").status_code == 404
    assert b"Drinks" not in b"".join(stranger.get(f"{LIST}/export?format=csv"))
    assert "mara" not in text_of(stranger.get(f"{LIST}/filters"))


def test_nobody_reads_without_signing_in(few: list[UUID]) -> None:
    for path in ("", "/filters", "/export?format=csv", "/add", "/views", f"/{few[0]}/edit"):
        answer = Client().get(LIST + path)
        assert answer.status_code == 302 and "/login" in answer["Location"]


def test_a_reviewer_is_no_admin(few: list[UUID], bob: Account, api: Any) -> None:
    api.delete(f"/memories/{few[0]}")
    page = sign_in(bob, Role.REVIEWER).get(f"{LIST}?deleted=yes").content.decode()
    assert 'value="restore"' in page and 'value="erase"' not in page


# --- Export --------------------------------------------------------------------------------------


def exported(signed_in: Client, query: str) -> Any:
    answer = signed_in.get(f"{LIST}/export?{query}")
    assert answer.status_code == 200, answer
    assert answer.streaming
    return answer


def test_an_export_holds_what_the_filter_matches(signed_in: Client, few: list[UUID]) -> None:
    answer = exported(signed_in, "format=json&user_id=mara")
    assert answer["Content-Type"] == "application/json"
    assert re.fullmatch(
        r'attachment; filename="memories-default-\d{4}-\d\d-\d\d\.json"',
        answer["Content-Disposition"],
    )
    rows = json.loads(b"".join(answer))
    assert [row["memory"] for row in rows] == ["Drinks tea", "Sleeps late"]
    lines = b"".join(exported(signed_in, "format=jsonl&q=late&mode=words")).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [str(few[1])]
    csv = b"".join(exported(signed_in, "format=csv")).decode()
    assert len(csv.splitlines()) == 4


def test_the_menu_offers_the_export_of_what_is_shown(signed_in: Client, few: list[UUID]) -> None:
    answer = signed_in.get(f"{LIST}?user_id=mara")
    assert f"{LIST}/export?user_id=mara&format=csv" in addresses(answer, "export")
    by_meaning = signed_in.get(f"{LIST}?q=tea")
    assert addresses(by_meaning, "export") == []
    assert "Search by words to export" in text_of(by_meaning)


@pytest.mark.parametrize("query", ["", "format=exe", "format=json&q=tea"])
def test_what_cannot_be_exported_is_refused_with_a_page(
    signed_in: Client, few: list[UUID], query: str
) -> None:
    answer = signed_in.get(f"{LIST}/export?{query}")
    assert answer.status_code == 400
    assert answer["Content-Type"].startswith("text/html")
