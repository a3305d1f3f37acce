"""Random filters over random memories: SQL equals a small reference, the index never hides a
match."""

import uuid
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Project
from memories.filters import (
    EVERYTHING,
    AllOf,
    AnyOf,
    Comparison,
    Node,
    Not,
    parse_filters,
    pushdown,
    to_q,
)
from memories.filters.language import DATE_FIELDS, LIST_FIELDS, TIME_FIELDS
from memories.models import Memory, MemoryVector
from memories.texts import fold, parse_instant

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# --- The reference -------------------------------------------------------------------------------
def holds(node: Node, memory: Memory, zone: tzinfo = UTC) -> bool:
    """Whether `memory` satisfies `node`, in plain Python; `zone` is where its days are."""
    if isinstance(node, AllOf):
        return all(holds(part, memory, zone) for part in node.parts)
    if isinstance(node, AnyOf):
        return any(holds(part, memory, zone) for part in node.parts)
    if isinstance(node, Not):
        return not holds(node.part, memory, zone)
    return condition_holds(node, memory, zone)


def condition_holds(c: Comparison, memory: Memory, zone: tzinfo) -> bool:
    if c.op in {"ne", "nin"}:
        positive = Comparison(c.field, "eq" if c.op == "ne" else "in", c.value, c.metadata)
        return not condition_holds(positive, memory, zone)
    if c.op == "in":
        return any(
            condition_holds(Comparison(c.field, "eq", value, c.metadata), memory, zone)
            for value in c.value
        )
    if c.metadata:
        return metadata_holds(c, memory.metadata)
    stored = getattr(memory, c.field)
    if c.field in LIST_FIELDS:
        if c.op == "exists":
            return bool(stored)
        if c.value is None:
            return not stored
        if c.op in {"contains", "icontains"}:
            return compare(c.op, stored, c.value)
        return any(compare(c.op, element, c.value) for element in stored)
    if c.field in TIME_FIELDS | DATE_FIELDS:
        return time_holds(c, stored, zone)
    if c.op in {"eq", "exists"}:  # an empty column is an absent value
        return compare(c.op, stored or None, c.value or None)
    return compare(c.op, stored, c.value)


def time_holds(c: Comparison, stored: datetime | date | None, zone: tzinfo) -> bool:
    if c.field in DATE_FIELDS:
        return compare(c.op, stored, c.value and date.fromisoformat(c.value))
    if isinstance(c.value, str) and len(c.value) == len("2024-03-05"):
        # A day against the day that calendars show there: whole days are compared.
        there = stored and stored.astimezone(zone).date()
        return compare(c.op, there, date.fromisoformat(c.value))
    return compare(c.op, stored, c.value and parse_instant(c.value))


def metadata_holds(c: Comparison, metadata: dict[str, Any]) -> bool:
    found = [compare(c.op, value, c.value) for value in values_of(metadata, c.field)]
    # Absent is what is absent by either reading of the name.
    return all(found) if c.op == "eq" and c.value is None else any(found)


def values_of(metadata: dict[str, Any], name: str) -> list[Any]:
    """The value of the key, and that of the path where the name can be one; None for what is not
    there."""
    keys = name.split(".")
    if len(keys) == 1 or not all(keys):
        return [metadata.get(name)]
    inner: Any = metadata
    for key in keys:
        inner = inner.get(key) if isinstance(inner, dict) else None
    return [metadata.get(name), inner]


def kind(value: Any) -> type:
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def compare(op: str, stored: Any, operand: Any) -> bool:
    same = kind(stored) is kind(operand)
    match op:
        case "exists":
            return stored is not None
        case "eq":
            return same and stored == operand
        case "gt" | "gte" | "lt" | "lte":
            if not same or stored is None:
                return False
            if isinstance(stored, str):
                stored, operand = stored.encode(), operand.encode()
            less, equal = stored < operand, stored == operand
            return {"lt": less, "lte": less or equal, "gte": not less}.get(
                op, not less and not equal
            )
        case _:
            if op == "icontains":
                stored = casefolded(stored)
                operand = operand.casefold()
            if isinstance(stored, list):
                return any(compare("eq", element, operand) for element in stored)
            return isinstance(stored, str) and isinstance(operand, str) and operand in stored


def casefolded(value: Any) -> Any:
    if isinstance(value, list):
        return [v.casefold() if isinstance(v, str) else v for v in value]
    return value.casefold() if isinstance(value, str) else value


# --- What there is to choose from ----------------------------------------------------------------
STRINGS = ["", "a", "A", "ab", "Éa", "b", "1", "true", "null", "it's", 'say "b"', "%", "_", "\\"]
STRINGS += ["😀", "e\u0301", "a=1", '=“b"', "x" * 250, "\n", "2024-03-05"]
NUMBERS = [
    0,
    1,
    2,
    -1,
    2**53,
    2**53 + 1,
    -(2**63),
    2**63 - 1,
    0.5,
    1.0,
    -0.0,
    1.5,
    1e-7,
    4e15 + 0.5,
]
KEYS = [
    "k",
    "n",
    "a__b",
    "a",
    "b",
    "a.b",
    "a.b.a",
    "a..b",
    ".",
    'q"k',
    "it's",
    "😀",
    "",
    "a=1",
    "$k",
    "%s",
    "k=",
    "meta",
    "project",
]
DAYS = [date(2024, 3, 4), date(2024, 3, 5), date(2024, 12, 31)]
MOMENTS = [
    datetime(2024, 3, 5, 12, tzinfo=UTC),
    datetime(2024, 3, 5, tzinfo=UTC),
    datetime(2024, 3, 5, 12, 0, 0, 1, tzinfo=UTC),
    datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]
# Where clocks are changed in spring and autumn, where at midnight, where a day was left out, and
# where the hours of others begin in between.
ZONES = ["Europe/Berlin", "America/Havana", "Pacific/Apia", "Asia/Kathmandu", "UTC"]
CHANGES = ["2026-03-08", "2026-03-29", "2026-10-25", "2026-11-01", "2011-12-30", "2024-02-29"]
minutes = st.integers(-36 * 60, 36 * 60)
changing_moments = st.builds(
    lambda day, minute, second: (
        datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(minutes=minute, seconds=second)
    ),
    st.sampled_from(CHANGES),
    # Near the hours at which days begin somewhere, as well as at any time.
    st.one_of(minutes, st.builds(lambda hour: hour * 60 - 1, st.integers(-30, 30))),
    st.sampled_from([0, 30, 59]),
)
INSTANTS = ["2024-03-05T12:00:00Z", "2024-03-05T13:00:00+01:00", "2024-03-05", "2000-01-01 00:00"]
INSTANTS += ["2024-03-04", "1999-12-31"]
TEXT_COLUMNS = {
    "user_id": ["a", "A", "Éa", "it's", "%"],
    "agent_id": ["a", "b"],
    "app_id": ["a", "1"],
    "run_id": ["a", "b"],
    "actor_id": ["a", "A"],
    "role": ["user", "assistant"],
    "source": ["a", "A", "%", "true"],
    "reviewed_by": ["a", "b"],
    "memory_type": ["a", "b"],
    "attributed_to": ["a", "b"],
}
CHOICES = {
    "confidence": ["high", "low", "unknown"],
    "review_status": ["approved", "rejected", "unreviewed"],
    "collection": ["conversational", "knowledge"],
}
IDS = {"user_id", "agent_id", "app_id", "run_id"}

scalars = st.one_of(st.sampled_from(STRINGS), st.sampled_from(NUMBERS), st.booleans(), st.none())
json_values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.lists(st.lists(scalars, max_size=2), max_size=1),
    st.dictionaries(st.sampled_from(KEYS), scalars, max_size=2),
    st.dictionaries(
        st.sampled_from(["a", "b", "0"]),
        st.one_of(scalars, st.dictionaries(st.sampled_from(["a", "b"]), scalars, max_size=2)),
        max_size=2,
    ),
)
memories = st.fixed_dictionaries(
    {
        **{name: st.sampled_from(["", *values]) for name, values in TEXT_COLUMNS.items()},
        **{name: st.sampled_from(values) for name, values in CHOICES.items()},
        "text": st.sampled_from(STRINGS[1:]),
        "metadata": st.dictionaries(st.sampled_from(KEYS), json_values, max_size=5),
        "categories": st.lists(st.sampled_from(STRINGS), max_size=3),
        "created_at": st.sampled_from(MOMENTS),
        "reviewed_at": st.sampled_from([None, *MOMENTS]),
        "expires_at": st.sampled_from([None, *MOMENTS]),
        "expiration_date": st.sampled_from([None, *DAYS]),
    }
)
ORDER = ["gt", "gte", "lt", "lte"]


def conditions_on(
    fields: list[str], operands: st.SearchStrategy, operators: list[str]
) -> st.SearchStrategy:
    """{field: {operator: operand}}, {field: operand}, {field: [operand, …]} or {field: "*"}."""
    plain = [op for op in operators if op not in {"in", "nin"}]
    present = operands.filter(lambda v: v is not None)
    ordered = present.filter(lambda v: not isinstance(v, bool))
    asked = st.sampled_from(plain).flatmap(
        lambda op: st.fixed_dictionaries(
            {
                op: operands.filter(lambda v: isinstance(v, str))
                if op == "icontains"
                else ordered
                if op in ORDER
                else present
                if op == "contains"
                else operands
            }
        )
    )
    several = st.lists(operands, max_size=3)
    value = st.one_of(
        asked,
        operands,
        several,
        st.fixed_dictionaries({"nin": several}),
        st.just("*"),
    )
    return st.builds(lambda field, v: {field: v}, st.sampled_from(fields), value)


TESTS = ["eq", "ne", *ORDER, "contains", "icontains"]
conditions = st.one_of(
    conditions_on(KEYS, scalars, TESTS),
    conditions_on(KEYS, scalars, TESTS),
    *(conditions_on([name], st.sampled_from(values), TESTS) for name, values in CHOICES.items()),
    *(
        conditions_on([name], st.sampled_from(values if name in IDS else ["", *values]), TESTS)
        for name, values in TEXT_COLUMNS.items()
    ),
    conditions_on(["text", "categories"], st.sampled_from(STRINGS), TESTS),
    conditions_on([*sorted(TIME_FIELDS)], st.sampled_from(INSTANTS), ["eq", "ne", *ORDER]),
    conditions_on(
        ["expiration_date"], st.sampled_from([d.isoformat() for d in DAYS]), ["eq", "ne", *ORDER]
    ),
    st.sampled_from(["expires_at", "expiration_date", "user_id", "source", "categories"]).map(
        lambda name: {name: None}
    ),
)
filters = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.builds(
            lambda word, parts: {word: parts},
            st.sampled_from(["AND", "OR", "NOT"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        inner.map(lambda part: {"NOT": [part]}),
    ),
    max_leaves=5,
)


@contextmanager
def stored(project: Project, given_rows: list[dict[str, Any]]):
    """The memories in the database, with vectors, for the length of the block."""
    with transaction.atomic():
        rows = [
            Memory(
                project=project,
                text_fold=fold(fields["text"]),
                fingerprint="f",
                updated_at=fields["created_at"] + timedelta(days=number),
                seq=number,
                **fields,
            )
            for number, fields in enumerate(given_rows)
        ]
        Memory.objects.bulk_create(rows)
        unit = np.eye(64, dtype="<f4")[0].tobytes()
        MemoryVector.objects.bulk_create(
            MemoryVector(memory=row, model_key="test/words-1", dims=64, data=unit) for row in rows
        )
        yield rows
        transaction.set_rollback(True)


def in_sql(node: Node, zone: tzinfo = UTC) -> set[uuid.UUID]:
    return set(Memory.objects.filter(to_q(node, zone)).values_list("id", flat=True))


# --- The properties ------------------------------------------------------------------------------
@pytest.mark.django_db
@EXAMPLES
@given(
    rows=st.lists(memories, min_size=1, max_size=6), asked=st.lists(filters, min_size=3, max_size=8)
)
def test_sql_and_the_reference_let_the_same_memories_through(project, rows, asked):
    with stored(project, rows) as kept:
        for one in asked:
            node = parse_filters(one)
            assert in_sql(node) == {row.id for row in kept if holds(node, row)}, node
            assert in_sql(Not(node)) == {row.id for row in kept if not holds(node, row)}, node


@pytest.mark.django_db
@EXAMPLES
@given(
    moments=st.lists(changing_moments, min_size=1, max_size=6),
    asked=st.lists(
        conditions_on(
            sorted(TIME_FIELDS), st.sampled_from([*CHANGES, *INSTANTS]), ["eq", "ne", *ORDER]
        ),
        min_size=3,
        max_size=8,
    ),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
)
def test_a_day_is_what_calendars_show_in_the_zone(project, moments, asked, zone):
    rows = [{"text": "a", "created_at": at, "reviewed_at": at, "expires_at": at} for at in moments]
    with stored(project, rows) as kept:
        for one in asked:
            node = parse_filters(one)
            found = {row.id for row in kept if holds(node, row, zone)}
            assert in_sql(node, zone) == found, (node, zone)


@pytest.mark.django_db
@EXAMPLES
@given(
    rows=st.lists(memories, min_size=1, max_size=6), asked=st.lists(filters, min_size=3, max_size=8)
)
def test_the_index_never_hides_what_sql_lets_through(engine, project, rows, asked):
    with stored(project, rows) as kept:
        engine.apply(kept)
        vector = np.eye(64, dtype=np.float32)[0]
        for one in asked:
            for node in (parse_filters(one), Not(parse_filters(one))):
                pushed, exact = pushdown(node)
                hits = {id_ for id_, _ in engine.index.search(vector, limit=100, where=pushed)}
                allowed = in_sql(node)
                assert allowed <= hits, (node, pushed)
                if exact:
                    assert allowed == hits, (node, pushed)
        engine.index.delete([row.id for row in kept])


@pytest.mark.django_db
@pytest.mark.parametrize("field", ["role", "source", "actor_id"])
@pytest.mark.parametrize("op", ["eq", "ne", "in", "nin"])
def test_the_index_finds_what_has_no_value_when_the_empty_one_is_asked_for(
    engine, project, field, op
):
    rows = [
        {"text": "none", "created_at": MOMENTS[0]},
        {"text": "some", "created_at": MOMENTS[0], field: "x"},
    ]
    with stored(project, rows) as kept:
        engine.apply(kept)
        pushed, exact = pushdown(node := Comparison(field, op, ("",) if "in" in op else ""))
        vector = np.eye(64, dtype=np.float32)[0]
        hits = {id_ for id_, _ in engine.index.search(vector, limit=9, where=pushed)}
        assert in_sql(node) <= hits
        assert not exact or in_sql(node) == hits


def test_what_the_index_answers_by_itself_is_pushed_down_whole():
    for one in (
        {"user_id": "a"},
        {"AND": [{"user_id": "a"}, {"OR": [{"source": ["x", "y"]}, {"NOT": {"k": 1}}]}]},
        {"k": {"nin": ["a", True]}},
        {"review_status": {"ne": "rejected"}},
    ):
        assert pushdown(parse_filters(one))[1], one
    assert pushdown(EVERYTHING) == (EVERYTHING, True)


def test_what_the_index_cannot_answer_is_left_to_sql():
    for one in (
        {"text": "a"},
        {"k": {"gt": 1}},
        {"k": None},
        {"categories": "a"},
        {"created_at": {"gt": "2024-01-01"}},
        {"source": "*"},
    ):
        assert pushdown(parse_filters(one)) == (EVERYTHING, False), one
        assert pushdown(parse_filters({"NOT": one})) == (EVERYTHING, False), one
    pushed, exact = pushdown(parse_filters({"user_id": "a", "k": {"gt": 1}}))
    assert (pushed, exact) == (AllOf((Comparison("user_id", "in", ("a",)),)), False)
    assert pushdown(parse_filters({"OR": [{"user_id": "a"}, {"k": {"gt": 1}}]}))[0] == EVERYTHING
