"""Writing keeps what it is given: messages of every form, times of every form, and what a change
must not move."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from django.utils import timezone

from memories.adding import idempotency as ingest
from memories.adding import service as adding
from memories.adding.failed import summarise_failed_adds
from memories.bulk import service as bulk
from memories.editing import service as services
from memories.models import AddInput, Memory, Revision
from memories.review import service as reviewing
from memories.tests.actions import add
from memories.tests.memserv import Memserv

# --- Messages ------------------------------------------------------------------------------------
TEA: Final = {"role": "user", "content": "I like tea"}
CALLS: Final = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
IMAGE: Final = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
# What is sent, and the texts that are kept of it.
SENT: Final[list[tuple[str, Any, list[str]]]] = [
    ("a text", "I like tea", ["I like tea"]),
    ("a lone turn", TEA, ["I like tea"]),
    ("parts", [{**TEA, "content": [{"type": "text", "text": "I like tea"}]}], ["I like tea"]),
    (
        "several parts",
        [{**TEA, "content": [{"type": "text", "text": "I like"}, IMAGE, {"text": "tea"}]}],
        ["I like tea"],
    ),
    (
        "parts of other interfaces",
        [
            {**TEA, "content": [{"type": "input_text", "text": "I like tea"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Noted"}]},
            {"role": "assistant", "content": [{"type": "text", "text": {"value": "Really"}}]},
        ],
        ["I like tea", "Noted", "Really"],
    ),
    ("a lone part", [{**TEA, "content": {"type": "text", "text": "I like tea"}}], ["I like tea"]),
    ("plain parts", [{**TEA, "content": ["I like", "tea"]}], ["I like tea"]),
    (
        "a turn that only calls",
        [TEA, {"role": "assistant", "content": None, "tool_calls": CALLS}],
        ["I like tea"],
    ),
    (
        "a turn that only calls, without content",
        [TEA, {"role": "assistant", "tool_calls": CALLS}],
        ["I like tea"],
    ),
    ("texts", ["I like tea", TEA], ["I like tea", "I like tea"]),
    ("parts beside content", [{"role": "user", "parts": [{"text": "I like tea"}]}], ["I like tea"]),
    (
        "parts beside empty content",
        [{**TEA, "content": "", "parts": [{"type": "text", "text": "I like tea"}]}],
        ["I like tea"],
    ),
    (
        "parts of no kind that is known",
        [
            {
                **TEA,
                "content": [{"type": ["text"], "text": "x"}, {"type": None, "text": "I like tea"}],
            }
        ],
        ["I like tea"],
    ),
    ("an image alone beside", [TEA, {"role": "user", "content": [IMAGE]}], ["I like tea"]),
    ("blank turns", [{**TEA, "content": " \n"}, TEA, {**TEA, "content": ""}], ["I like tea"]),
]
NOTHING: Final = [
    [{**TEA, "content": " "}],
    [{**TEA, "content": None}],
    [{**TEA, "content": [IMAGE]}],
    [{"role": "assistant", "tool_calls": CALLS}],
    [{"role": "system", "content": "Be brief"}, {**TEA, "content": ""}],
    " ",
]


@pytest.fixture
def rest(api: Any) -> Memserv:
    return Memserv(api.client, api.headers["X-API-Key"])


def test_messages_of_every_form_are_kept_in_each_dialect(api: Any, rest: Memserv) -> None:
    for number, (what, messages, kept) in enumerate(SENT):
        user = f"user-{number}"
        answer = api.post("/memories", {"messages": messages, "user_id": user})
        assert answer.status_code == 200, (what, answer.content)
        assert [one["memory"] for one in answer.json()["results"]] == kept, what
        other = rest.ok("POST", "", {"messages": messages, "user_id": f"{user}-m"})
        assert [one["memory"] for one in other["results"]] == kept, what
        # And it is the same add when it comes again, written in plain turns.
        plain = [m for m in AddInput.objects.latest("created_at").messages if m["content"]]
        again = rest.ok("POST", "", {"messages": plain, "user_id": f"{user}-m"})
        assert again["deduplicated"], what


def test_only_where_nothing_is_said_at_all_an_add_is_refused(api: Any, rest: Memserv) -> None:
    for messages in NOTHING:
        answer = api.post("/memories", {"messages": messages, "user_id": "alice"})
        assert answer.status_code == 400, messages
        assert "there is no text" in answer.json()["detail"]
        answer = rest("POST", "", {"messages": messages, "user_id": "alice"})
        assert answer.status_code == 422, messages
        assert "there is no text" in answer.json()["detail"]
    assert not Memory.objects.exists()


def test_memserv_reads_its_content_as_that_of_a_message(rest: Memserv) -> None:
    for body in (
        {"content": [{"type": "text", "text": "I like"}, IMAGE, {"type": "text", "text": "tea"}]},
        {"content": " ", "messages": ["I like tea"]},
        {"content": [IMAGE], "messages": [{**TEA, "content": "I like tea"}]},
        {"content": "I like tea", "messages": "something else"},
    ):
        answer = rest.ok("POST", "", {**body, "user_id": "alice", "dedup": False})
        assert [one["memory"] for one in answer["results"]] == ["I like tea"], body
    for content in ("", " ", [IMAGE], []):
        assert rest("POST", "", {"content": content, "user_id": "alice"}).status_code == 422


def test_what_is_no_message_keeps_the_shape_of_its_error(api: Any) -> None:
    for messages, kind, place in (
        (5, "list_type", ["body", "messages"]),
        ([5], "model_type", ["body", "messages", 0]),
        ([{"role": "user"}], "missing", ["body", "messages", 0, "content"]),
        ([{"content": "x"}], "missing", ["body", "messages", 0, "role"]),
        ([{**TEA, "content": 5}], "string_type", ["body", "messages", 0, "content"]),
        ([{**TEA, "content": [5]}], "string_type", ["body", "messages", 0, "content"]),
    ):
        answer = api.post("/memories", {"messages": messages, "user_id": "alice"})
        assert answer.status_code == 422, messages
        [error] = answer.json()["detail"]
        assert (error["type"], error["loc"]) == (kind, place), messages


# --- Times in the metadata -----------------------------------------------------------------------
NEW_YEAR: Final = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS: Final = int(NEW_YEAR.timestamp())
READABLE: Final = [
    SECONDS,
    float(SECONDS),
    SECONDS * 1000,
    str(SECONDS),
    f"{SECONDS}.0",
    str(SECONDS * 1000),
    "2026-01-01",
    "2026-01-01T00:00:00Z",
    "2026-01-01T01:00:00+01:00",
]
UNREADABLE: Final = [
    "01/02/2024",
    "2024-01-01T25:00:00",
    "2024-02-30",
    "yesterday",
    5,
    True,
    [],
    {},
    10**30,
    "1e9",
]
TIMES: Final = ("created_at", "updated_at", "expires_at", "expiration_date", "reviewed_at")


def test_times_are_read_as_dates_and_as_seconds_or_milliseconds(api: Any) -> None:
    for value in READABLE:
        id_ = api.add("tea", metadata={"expires_at": value, "created_at": value, "k": 1})
        row = Memory.objects.get(id=id_)
        assert (row.expires_at, row.created_at) == (NEW_YEAR, NEW_YEAR), value
        shown = api.get(f"/memories/{id_}").json()["metadata"]
        assert shown == {"expires_at": value, "k": 1}
        id_ = api.add("tea", metadata={"expiration_date": value})
        assert Memory.objects.get(id=id_).expiration_date == date(2026, 1, 1), value
        assert api.get(f"/memories/{id_}").json()["metadata"] == {"expiration_date": value}
        api.put(f"/memories/{id_}", {"metadata": {"expires_at": value}})
        assert Memory.objects.get(id=id_).expires_at == NEW_YEAR, value
    # They all have expired.
    assert api.search("tea") == []


def test_a_time_that_cannot_be_read_is_refused_by_name(api: Any, rest: Memserv) -> None:
    id_ = api.add("coffee")
    for name in TIMES:
        for value in UNREADABLE:
            metadata = {name: value}
            for answer in (
                api.post(
                    "/memories", {"messages": "tea", "user_id": "alice", "metadata": metadata}
                ),
                api.put(f"/memories/{id_}", {"metadata": metadata}),
                rest("POST", "", {"content": "tea", "user_id": "alice", "metadata": metadata}),
            ):
                assert answer.status_code in {400, 422}, metadata
                assert f"metadata {name}: use ISO 8601" in answer.json()["detail"], metadata
    assert [row.text for row in Memory.objects.all()] == ["coffee"]
    assert Memory.objects.get().metadata == {}


def test_no_time_at_all_is_no_wrong_one(api: Any) -> None:
    for name in TIMES:
        for none in (None, ""):
            id_ = api.add("tea", metadata={name: none})
            row = Memory.objects.get(id=id_)
            assert (row.expires_at, row.expiration_date) == (None, None)


def test_what_the_call_says_goes_before_what_the_metadata_say(api: Any) -> None:
    told = {"expiration_date": "2020-01-01"}
    id_ = api.add("tea", metadata=told, expiration_date="2999-12-31")
    assert Memory.objects.get(id=id_).expiration_date == date(2999, 12, 31)
    assert len(api.search("tea")) == 1


# --- What a change does not move -----------------------------------------------------------------
STAYS: Final = ("text", "fingerprint", "text_fold", "created_at", "session", "seq", "batch_id")
STAYS_TOO: Final = ("user_id", "agent_id", "app_id", "run_id", "role", "metadata", "collection")
CHANGES: Final = [
    ("review", "approve", ""),
    ("review", "reject", ""),
    ("review", "stale", ""),
    ("confidence", "confidence", "high"),
    ("expiry", "expire", "2999-12-31"),
    ("expiry", "expire", "2999-12-31T10:00:00Z"),
    ("expiry", "unexpire", ""),
]
WORD: Final = {"approve": "approved", "reject": "rejected", "stale": "stale"}
STORY: Final = [TEA, {"role": "assistant", "content": "Green or black?"}]


@pytest.mark.parametrize("at_once", [False, True], ids=["single", "bulk"])
@pytest.mark.parametrize(("kind", "action", "value"), CHANGES)
def test_review_confidence_and_expiry_move_nothing_else(
    api: Any, rest: Memserv, owner: Any, kind: str, action: str, value: str, at_once: bool
) -> None:
    body = {"messages": STORY, "user_id": "alice", "metadata": {"expires_at": "2998-01-01"}}
    first, _ = [one["id"] for one in rest.ok("POST", "", body)["results"]]
    before = Memory.objects.values(*STAYS, *STAYS_TOO).get(id=first)
    if at_once:
        bulk.run(owner, bulk.plan(owner, action, value=value, ids=[UUID(first)]).token)
    elif kind == "review":
        reviewing.set_review(owner, first, WORD[action])
    elif kind == "confidence":
        reviewing.set_confidence(owner, first, value)
    else:
        reviewing.set_expiry(owner, first, value)
    assert Memory.objects.values(*STAYS, *STAYS_TOO).get(id=first) == before
    again = rest.ok("POST", "", body)
    assert (again["results"], again["deduplicated"]) == ([], True)
    # Undone, it still is what was said.
    last = Revision.objects.filter(memory_id=first).latest("id")
    services.undo_change(owner, first, last.id)
    assert Memory.objects.values(*STAYS, *STAYS_TOO).get(id=first) == before
    assert Memory.objects.count() == 2


def test_a_new_text_has_its_own_fingerprint_and_undoing_it_brings_the_old_one_back(
    api: Any, rest: Memserv, owner: Any
) -> None:
    body = {"messages": STORY, "user_id": "alice"}
    first, second = [one["id"] for one in rest.ok("POST", "", body)["results"]]
    services.delete_memory(owner, second)
    before = Memory.objects.get(id=first).fingerprint
    services.update_memory(owner, first, text="I like coffee")
    assert Memory.objects.get(id=first).fingerprint != before
    services.undo_change(owner, first, Revision.objects.filter(memory_id=first).latest("id").id)
    assert Memory.objects.get(id=first).fingerprint == before
    assert rest.ok("POST", "", body)["memory_id"] == first


# --- Failed adds that were made good -------------------------------------------------------------
def failed(owner: Any, digest: str, minutes: int, **changes: Any) -> AddInput:
    at = timezone.now() + timedelta(minutes=minutes)
    fields = {
        "messages": [TEA],
        "outcome": AddInput.Outcome.FAILED,
        "reason": "down",
        "code": "unknown",
        "created_at": at,
        "finished_at": at,
    }
    return AddInput.objects.create(
        project_id=owner.project.id, digest=digest, **{**fields, **changes}
    )


def test_the_overview_counts_the_failed_adds_that_wait_for_another_attempt(
    owner: Any, engine: Any
) -> None:
    made_good, stored = "a" * 64, AddInput.Outcome.STORED
    failed(owner, made_good, 1)
    failed(owner, made_good, 2, outcome=stored)
    first = failed(owner, "b" * 64, 3)
    failed(owner, "b" * 64, 4)  # the same once more
    after = failed(owner, made_good, 5)
    alone = failed(owner, "", 6)
    other = failed(owner, "", 7)
    failed(owner, "c" * 64, 8, messages=[])  # erased
    waiting = [first.id, after.id, alone.id, other.id]
    assert [one.id for one in adding.failed_adds(owner)] == waiting
    assert summarise_failed_adds(owner).count == len(waiting)
    failed(owner, "b" * 64, 9, outcome=AddInput.Outcome.NOTHING_EXTRACTED)
    assert summarise_failed_adds(owner).count == len(adding.failed_adds(owner)) == 3
    assert ingest.filter_failed(owner.project.id).filter(id=first.id).count() == 0


def test_an_add_that_went_well_at_the_second_attempt_is_no_failed_one(
    owner: Any, engine: Any, embedder: Any
) -> None:
    embedder.error = RuntimeError("away")
    with pytest.raises(Exception, match="embed"):
        add(owner, "tea")
    assert summarise_failed_adds(owner).count == len(adding.failed_adds(owner)) == 1
    embedder.error = None
    add(owner, "tea")
    assert summarise_failed_adds(owner).count == len(adding.failed_adds(owner)) == 0
