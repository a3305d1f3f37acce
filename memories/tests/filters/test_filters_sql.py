"""What filters mean in SQL, case by case: the same on every database, and never a crash."""

import re
from datetime import UTC, date, datetime

import pytest
from django.db import connection
from django.db.models import Q

from accounts.models import Project
from core.errors import InvalidInputError
from memories.filters import EVERYTHING, AllOf, AnyOf, Comparison, Not, parse_filters, to_q
from memories.models import Memory
from memories.texts import fold

MOMENT = datetime(2024, 3, 5, 12, tzinfo=UTC)


@pytest.fixture
def store(project: Project):
    def store(**fields):
        text = fields.setdefault("text", "a memory")
        fields = {"project": project, "text_fold": fold(text), **fields}
        return Memory.objects.create(
            **{"fingerprint": "f", "created_at": MOMENT, "updated_at": MOMENT, **fields}
        )

    return store


def matching(filters) -> set:
    return set(
        Memory.objects.filter(to_q(parse_filters(filters), UTC)).values_list("id", flat=True)
    )


# --- What the databases cannot take ------------------------------------------------------------
@pytest.mark.django_db
@pytest.mark.parametrize("op", ["eq", "ne", "gt", "contains"])
@pytest.mark.parametrize("value", [2**63, 2**64 - 1, -(2**63)], ids=["2^63", "2^64-1", "-2^63"])
def test_integers_of_any_size_can_be_compared(store, op, value):
    small = store(metadata={"n": 1})
    expected = {small.id} if op == "ne" or (op == "gt" and value < 0) else set()
    assert matching({"n": {op: value}}) == expected


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "size"), [("tag", 1_500), ("categories", 1_500), ("user_id", 300_000)]
)
def test_a_long_list_of_values_is_answered_or_refused_but_no_crash(store, field, size):
    wanted = store(metadata={"tag": "v7"}, categories=["v7"], user_id="v7")
    store(metadata={"tag": "other"}, categories=["other"], user_id="other")
    filters = {field: [f"v{i}" for i in range(size)]}
    try:
        node = parse_filters(filters)
    except InvalidInputError:
        return
    assert set(Memory.objects.filter(to_q(node, UTC)).values_list("id", flat=True)) == {wanted.id}


@pytest.mark.django_db
@pytest.mark.parametrize("word", ["AND", "OR", "NOT"])
@pytest.mark.parametrize("count", [2, 5])
def test_many_long_lists_together_are_answered_or_refused_but_no_crash(store, word, count):
    store(metadata={"k0": "7"})
    filters = {word: [{f"k{i}": [str(j) for j in range(400)]} for i in range(count)]}
    try:
        node = parse_filters(filters)
    except InvalidInputError:
        return
    assert Memory.objects.filter(to_q(node, UTC)).count() == (1 if word == "OR" else 0)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"], ids=["first", "last"]
)
def test_an_instant_outside_of_the_calendar_is_refused(store, moment):
    with pytest.raises(InvalidInputError):
        parse_filters({"created_at": {"gt": moment}})


# --- What filters mean, case by case -------------------------------------------------------------
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("metadata", "condition", "holds"),
    [
        ({}, {"ne": "x"}, True),
        ({}, {"nin": ["x"]}, True),
        ({}, {"ne": None}, False),
        ({}, None, True),
        ({}, "*", False),
        ({"k": None}, None, True),
        ({"k": None}, "*", False),
        ({"k": None}, {"ne": "x"}, True),
        ({"k": None}, {"nin": [None]}, False),
        ({"k": None}, {"in": ["x", None]}, True),
        ({"k": None}, {"gt": 0}, False),
        ({"k": False}, "*", True),
        ({"k": 0}, "*", True),
        ({"k": []}, {"ne": None}, True),
        ({"k": True}, 1, False),
        ({"k": 1}, True, False),
        ({"k": False}, 0, False),
        ({"k": True}, True, True),
        ({"k": "true"}, True, False),
        ({"k": "1"}, 1, False),
        ({"k": 1}, "1", False),
        ({"k": 1}, 1.0, True),
        ({"k": 1.0}, 1, True),
        ({"k": 1.5}, 1, False),
        ({"k": 1}, {"in": [1.0, "x"]}, True),
        ({"k": "null"}, None, False),
        ({"k": "a"}, "A", False),
        ({"k": ["a"]}, "a", False),
        ({"k": {"a": 1}}, "a", False),
        ({"k": ""}, "", True),
        ({"k": 5}, {"gt": 4}, True),
        ({"k": 5}, {"gt": 5}, False),
        ({"k": 5}, {"gte": 5.0}, True),
        ({"k": 10}, {"gt": 9}, True),
        ({"k": "10"}, {"gt": "9"}, False),
        ({"k": "10"}, {"gt": 9}, False),
        ({"k": 10}, {"gt": "9"}, False),
        ({"k": True}, {"gt": 0}, False),
        ({"k": [5]}, {"gt": 4}, False),
        ({"k": "b"}, {"gt": "a"}, True),
        ({"k": "a"}, {"gt": "B"}, True),  # by code point, not by locale
        ({"k": "é"}, {"gt": "z"}, True),
        ({"k": "2024-05-01"}, {"gte": "2024-01-01", "lt": "2025-01-01"}, True),
        ({"k": ["a", "b"]}, {"contains": "a"}, True),
        ({"k": ["ab"]}, {"contains": "a"}, False),
        ({"k": [1, 2]}, {"contains": 1.0}, True),
        ({"k": [True]}, {"contains": 1}, False),
        ({"k": ["1"]}, {"contains": 1}, False),
        ({"k": [1]}, {"contains": "1"}, False),
        ({"k": [False]}, {"contains": False}, True),
        ({"k": [["a"]]}, {"contains": "a"}, False),
        ({"k": [{"a": 1}]}, {"contains": "a"}, False),
        ({"k": "a_b%c"}, {"contains": "_b%"}, True),
        ({"k": "axbyc"}, {"contains": "_b%"}, False),
        ({"k": "abc"}, {"contains": "B"}, False),
        ({"k": "abc"}, {"icontains": "B"}, True),
        ({"k": 123}, {"contains": "2"}, False),
        ({"k": {"a": 1}}, {"contains": "a"}, False),
        ({"k": ["Food"]}, {"icontains": "fOOD"}, True),
    ],
    ids=repr,
)
def test_a_metadata_condition_holds_by_type_and_value(store, metadata, condition, holds):
    row = store(metadata=metadata)
    assert matching({"k": condition}) == ({row.id} if holds else set())
    assert matching({"NOT": {"k": condition}}) == (set() if holds else {row.id})


ODD_KEYS = [
    "a__b",
    "a.b",
    'say "x"',
    "it's",
    "$",
    "😀",
    "",
    "%s",
    "k]",
    "[0]",
    "naïve",
    "a=b",
    "\\",
]


@pytest.mark.django_db
@pytest.mark.parametrize("key", ODD_KEYS, ids=repr)
def test_a_metadata_key_is_taken_word_for_word(store, key):
    row = store(metadata={key: "yes", "other": 1})
    store(metadata={"a": {"c": "yes"}, "k": ["yes"], "x": "yes"})
    assert matching({key: "yes"}) == {row.id}
    assert matching({key: "*"}) == {row.id}
    assert matching({key: {"contains": "es"}}) == {row.id}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Straße 5", "STRASSE"),
        ("STRASSE 5", "straße"),
        ("İstanbul", "İSTANBUL"),
        ("İstanbul", "İs"),
        ("ΟΔΟΣ", "ΟΔΟΣ"),
        ("οδος", "ΟΔΟΣ"),
        ("ΟΔΟΣ", "οδος"),
        ("οδοσι", "ΟΔΟΣ"),
        ("ÄÖÜ", "äöü"),
        ("ДОМ", "дом"),
        ("a_b%c\\", "B%C\\"),
    ],
)
def test_icontains_folds_letters_of_every_script(store, text, part):
    row = store(text=text, metadata={"k": text}, categories=[text])
    store(text="something else", metadata={"k": "something else"}, categories=["else"])
    assert matching({"text": {"icontains": part}}) == {row.id}
    assert matching({"k": {"icontains": part}}) == {row.id}
    if fold(text) == fold(part):
        assert matching({"categories": {"icontains": part}}) == {row.id}


@pytest.mark.django_db
def test_categories_are_searched_element_by_element(store):
    food = store(categories=["food", "Travel"])
    none = store(categories=[])
    assert matching({"categories": "food"}) == {food.id}
    assert matching({"categories": {"contains": "food"}}) == {food.id}
    assert matching({"categories": {"contains": "foo"}}) == set()
    assert matching({"categories": {"icontains": "travel"}}) == {food.id}
    assert matching({"categories": ["x", "food"]}) == {food.id}
    assert matching({"categories": {"nin": ["food"]}}) == {none.id}
    assert matching({"categories": {"gt": "g"}}) == set()
    assert matching({"categories": {"lt": "g"}}) == {food.id}
    assert matching({"categories": "*"}) == {food.id}
    assert matching({"categories": None}) == {none.id}


@pytest.mark.django_db
def test_times_compare_as_instants_and_a_missing_time_equals_nothing(store):
    never = store()
    soon = store(expires_at=MOMENT, expiration_date=date(2024, 3, 5))
    assert matching({"expires_at": "2024-03-05T13:00:00+01:00"}) == {soon.id}
    assert matching({"expires_at": {"gte": "2024-03-05"}}) == {soon.id}
    assert matching({"expires_at": {"lt": "2024-03-05"}}) == set()
    assert matching({"expires_at": {"ne": "2024-03-05T12:00:00Z"}}) == {never.id}
    assert matching({"expires_at": {"nin": ["2024-03-05T12:00:00Z"]}}) == {never.id}
    assert matching({"NOT": {"expires_at": {"gt": "2024-01-01"}}}) == {never.id}
    assert matching({"expires_at": None}) == {never.id}
    assert matching({"expires_at": "*"}) == {soon.id}
    assert matching({"expiration_date": {"lte": "2024-03-05"}}) == {soon.id}
    assert matching({"NOT": {"expiration_date": {"gt": "2024-03-05"}}}) == {never.id, soon.id}


@pytest.mark.django_db
def test_an_empty_column_is_absent(store):
    bare, full = store(), store(source="cli", user_id="alice")
    assert matching({"source": None}) == {bare.id}
    assert matching({"source": "*"}) == {full.id}
    assert matching({"user_id": {"ne": "alice"}}) == {bare.id}
    assert matching({"source": {"in": ["cli", None]}}) == {bare.id, full.id}
    assert matching({"source": {"in": []}}) == set()
    assert matching({"source": {"nin": []}}) == {bare.id, full.id}
    assert matching({"k": {"in": []}}) == set()


# --- Joining -------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_everything_can_be_negated(store):
    row = store()
    nothing = AnyOf(())
    for node, count in (
        (EVERYTHING, 1),
        (Not(EVERYTHING), 0),
        (nothing, 0),
        (Not(nothing), 1),
        (AllOf((EVERYTHING, Not(nothing))), 1),
        (AllOf((EVERYTHING, nothing)), 0),
        (AnyOf((EVERYTHING, nothing)), 1),
        (AnyOf((nothing, Comparison("user_id", "eq", "x"), EVERYTHING)), 1),
        (Not(AnyOf((Comparison("user_id", "eq", "x"), EVERYTHING))), 0),
        (Not(AllOf((AllOf(()), AllOf(())))), 0),
        (Not(Not(EVERYTHING)), 1),
    ):
        assert Memory.objects.filter(to_q(node, UTC)).count() == count, node
    assert matching({"NOT": [{}]}) == set()
    assert matching({"OR": [{"user_id": "x"}, {}]}) == {row.id}


@pytest.mark.django_db
@pytest.mark.parametrize("pair", [("a", "b"), (1, "1"), (1, True), (0, False), (1, 2)], ids=repr)
@pytest.mark.parametrize("op", ["eq", "contains"])
def test_conditions_that_differ_in_the_value_alone_are_not_taken_for_one(store, pair, op):
    one, two = (store(metadata={"k": [v] if op == "contains" else v}) for v in pair)
    first, second = (to_q(Comparison("k", op, v, metadata=True), UTC) for v in pair)
    assert first != second
    assert Memory.objects.filter(first | second).count() == 2
    assert not Memory.objects.filter(first & second).exists()
    assert set(Memory.objects.filter(first & ~second)) == {one}
    assert set(Memory.objects.filter(second & ~first)) == {two}


@pytest.mark.django_db
def test_conditions_that_differ_in_the_key_or_the_operator_alone_are_two():
    nodes = [
        Comparison(key, op, "a", metadata=True) for key in ("k", "l") for op in ("eq", "contains")
    ] + [Comparison("text", op, "a") for op in ("gt", "gte", "contains", "icontains")]
    assert len({hash(to_q(node, UTC)) for node in nodes}) == len(nodes)
    assert to_q(nodes[0], UTC) == to_q(nodes[0], UTC)
    assert to_q(nodes[0], UTC) | Q() == to_q(nodes[0], UTC)


@pytest.mark.django_db
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite compares by code point")
@pytest.mark.parametrize("field", ["text", "tag", "categories"])
def test_order_does_not_depend_on_the_locale_of_the_database(field):
    sql = str(Memory.objects.filter(to_q(parse_filters({field: {"gt": "a"}}), UTC)).query)
    assert 'COLLATE "C"' in sql


# --- Whole days, and keys inside of objects ------------------------------------------------------
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"lte": "2026-11-30"}, "before start noon last"),
        ({"lt": "2026-11-30"}, "before"),
        ({"gte": "2026-11-30"}, "start noon last after"),
        ({"gt": "2026-11-30"}, "after"),
        ("2026-11-30", "start noon last"),
        ({"eq": "2026-11-30"}, "start noon last"),
        ({"ne": "2026-11-30"}, "before after"),
        (["2026-11-30", "2026-12-01"], "start noon last after"),
        ({"nin": ["2026-11-30"]}, "before after"),
        ({"gte": "2026-11-30", "lte": "2026-11-30"}, "start noon last"),
        ({"gte": "2026-11-29", "lt": "2026-12-01"}, "before start noon last"),
        ({"lte": "2026-11-30T12:00:00Z"}, "before start noon"),
        ({"lte": "20261130"}, "before start noon last"),
        ({"lt": "9999-12-31"}, "before start noon last after"),
    ],
)
@pytest.mark.parametrize("field", ["created_at", "updated_at", "expires_at", "reviewed_at"])
def test_a_day_without_a_time_is_the_whole_day(store, field, asked, found):
    moments = {
        "before": datetime(2026, 11, 29, 23, 59, 59, 999999, tzinfo=UTC),
        "start": datetime(2026, 11, 30, tzinfo=UTC),
        "noon": datetime(2026, 11, 30, 12, tzinfo=UTC),
        "last": datetime(2026, 11, 30, 23, 59, 59, 999999, tzinfo=UTC),
        "after": datetime(2026, 12, 1, tzinfo=UTC),
    }
    rows = {store(**{field: moment}).id: name for name, moment in moments.items()}
    assert {rows[id_] for id_ in matching({field: asked})} == set(found.split())


@pytest.mark.django_db
def test_a_name_with_dots_reaches_into_objects_or_is_a_key_itself(store):
    inside = store(metadata={"nested": {"a": 1, "b": {"c": ["x"]}}})
    itself = store(metadata={"nested.a": 1})
    neither = store(metadata={"nested": [{"a": 1}], "a": 1})
    assert matching({"nested.a": 1}) == {inside.id, itself.id}
    assert matching({"nested.a": {"gte": 1, "lt": 2}}) == {inside.id, itself.id}
    assert matching({"nested.a": "*"}) == {inside.id, itself.id}
    assert matching({"nested.a": None}) == {neither.id}
    assert matching({"nested.a": {"ne": 1}}) == {neither.id}
    assert matching({"nested.b.c": {"contains": "x"}}) == {inside.id}
    assert matching({"nested.b": "x"}) == matching({"nested..a": 1}) == set()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"nested": {"a": 1}}, "For the key a inside of nested, write nested.a."),
        ({"nested": {"a": {"b": 1}}}, "write nested.a."),
        ({"metadata": {"k": 1}}, "name keys of the metadata by themselves"),
        ({"metadata.k": 1}, "name keys of the metadata by themselves"),
        ({"NOT": [{"metadata": {"k": 1}}]}, "name keys of the metadata by themselves"),
        ({".".join("abcdefghij"): 1}, "more than 8 keys"),
    ],
)
def test_what_reaches_nowhere_is_refused_with_the_way_to_write_it(asked, told):
    with pytest.raises(InvalidInputError, match=re.escape(told)):
        parse_filters(asked)
