"""Filters are parsed from what clients send, or refused with a sentence."""

import pytest

from core.errors import InvalidInputError
from memories.filters import EVERYTHING, AllOf, AnyOf, Comparison, Not, parse_filters
from memories.filters.language import OPERATORS, mentions, names_an_entity
from memories.texts import entity_id

pytestmark = pytest.mark.one_form


def test_an_empty_filter_lets_everything_through():
    assert parse_filters({}) == EVERYTHING


def test_a_plain_value_is_equality_a_star_is_presence_and_a_list_is_one_of():
    assert parse_filters({"user_id": "alice"}) == Comparison("user_id", "eq", "alice")
    assert parse_filters({"user_id": "*"}) == Comparison("user_id", "exists")
    assert parse_filters({"tag": ["a", 1]}) == Comparison("tag", "in", ("a", 1), metadata=True)
    assert parse_filters({"tag": None}) == Comparison("tag", "eq", None, metadata=True)


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_is_understood_on_a_metadata_key(op):
    operand = ["a", "b"] if op in {"in", "nin"} else "a"
    value = tuple(operand) if isinstance(operand, list) else operand
    assert parse_filters({"tag": {op: operand}}) == Comparison("tag", op, value, metadata=True)


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_is_understood_on_a_column(op):
    operand = ["a", "b"] if op in {"in", "nin"} else "a"
    value = tuple(operand) if isinstance(operand, list) else operand
    assert parse_filters({"source": {op: operand}}) == Comparison("source", op, value)


def test_several_keys_and_several_operators_must_all_hold():
    assert parse_filters({"user_id": "a", "n": {"gte": 1, "lt": 5}}) == AllOf(
        (
            Comparison("user_id", "eq", "a"),
            AllOf(
                (
                    Comparison("n", "gte", 1, metadata=True),
                    Comparison("n", "lt", 5, metadata=True),
                )
            ),
        )
    )


@pytest.mark.parametrize("spelling", ["{}", "${}"])
def test_and_or_not_nest_and_have_two_spellings(spelling):
    def name(word):
        return spelling.format(word if "$" not in spelling else word.lower())

    a, b = Comparison("user_id", "eq", "a"), Comparison("k", "eq", 1, metadata=True)
    assert parse_filters({name("AND"): [{"user_id": "a"}, {"k": 1}]}) == AllOf((a, b))
    assert parse_filters({name("OR"): [{"user_id": "a"}, {"k": 1}]}) == AnyOf((a, b))
    assert parse_filters({name("NOT"): [{"user_id": "a"}, {"k": 1}]}) == Not(AnyOf((a, b)))
    nested = {name("AND"): [{name("OR"): [{"user_id": "a"}, {name("NOT"): [{"k": 1}]}]}]}
    assert parse_filters(nested) == AllOf((AnyOf((a, Not(AnyOf((b,))))),))


def test_a_single_object_stands_for_a_list_of_one():
    assert parse_filters({"NOT": {"k": 1}}) == Not(
        AnyOf((Comparison("k", "eq", 1, metadata=True),))
    )


@pytest.mark.parametrize("alias", ["data", "memory"])
def test_the_text_has_aliases(alias):
    assert parse_filters({alias: {"contains": "tea"}}) == Comparison("text", "contains", "tea")


def test_both_branches_on_the_same_field_are_kept():
    node = parse_filters({"AND": [{"user_id": "a"}, {"user_id": "b"}]})
    assert node == AllOf((Comparison("user_id", "eq", "a"), Comparison("user_id", "eq", "b")))


def test_ids_are_trimmed():
    assert parse_filters({"user_id": " alice "}) == Comparison("user_id", "eq", "alice")


def test_a_value_that_the_column_cannot_hold_speaks_of_the_metadata():
    assert parse_filters({"confidence": 0.7}) == Comparison("confidence", "eq", 0.7, metadata=True)
    assert parse_filters({"confidence": {"gt": 0.5}}).metadata
    assert not parse_filters({"confidence": "high"}).metadata
    assert not parse_filters({"source": None}).metadata


def test_null_in_a_list_leaves_a_column_a_column():
    assert parse_filters({"role": {"in": ["user", None]}}) == Comparison(
        "role", "in", ("user", None)
    )


@pytest.mark.parametrize(
    "filters",
    [
        [],
        "user_id",
        None,
        {"AND": []},
        {"OR": []},
        {"NOT": []},
        {"AND": ["user_id"]},
        {"AND": "user_id"},
        {"k": {}},
        {"k": {"like": "a"}},
        {"k": {"$gt": 1}},
        {"k": {"in": "a"}},
        {"k": {"in": [["a"]]}},
        {"k": {"eq": {"a": 1}}},
        {"k": {"gt": None}},
        {"k": {"gt": True}},
        {"k": {"icontains": 1}},
        {"k": "a\0b"},
        {"k": {"in": ["a\0b"]}},
        {"user_id": ""},
        {"user_id": " "},
        {"user_id": "a b"},
        {"user_id": 5},
        {"user_id": "x" * 256},
        {"user_id": {"in": ["a", ""]}},
        {"text": 5},
        {"categories": 5},
        {"created_at": "yesterday"},
        {"created_at": {"gt": 5}},
        {"created_at": {"contains": "2024-01-01"}},
        {"expiration_date": "05.03.2024"},
        {"expiration_date": {"icontains": "2024-01-01"}},
    ],
    ids=repr,
)
def test_what_cannot_be_understood_is_refused(filters):
    with pytest.raises(InvalidInputError):
        parse_filters(filters)


@pytest.mark.parametrize("field", ["tag", "text", "categories"])
def test_contains_null_is_refused_as_it_asks_for_nothing(field):
    with pytest.raises(InvalidInputError):
        parse_filters({field: {"contains": None}})


def test_the_depth_and_the_number_of_conditions_are_limited():
    deep = {"k": 1}
    for _ in range(16):
        deep = {"NOT": [deep]}
    parse_filters(deep)
    with pytest.raises(InvalidInputError, match="deeper"):
        parse_filters({"NOT": [deep]})
    parse_filters({f"k{i}": 1 for i in range(200)})
    with pytest.raises(InvalidInputError, match="200"):
        parse_filters({f"k{i}": 1 for i in range(201)})


def test_the_error_names_the_operators_there_are():
    with pytest.raises(InvalidInputError, match="eq, ne, gt, gte, lt, lte, in, nin, contains"):
        parse_filters({"k": {"like": "a"}})


def test_an_entity_is_named_only_by_a_positive_condition():
    assert names_an_entity(parse_filters({"OR": [{"k": 1}, {"agent_id": ["a"]}]}))
    assert names_an_entity(parse_filters({"run_id": "*"}))
    assert names_an_entity(parse_filters({"NOT": {"NOT": {"user_id": "a"}}}))
    assert not names_an_entity(parse_filters({"NOT": {"user_id": "a"}}))
    assert not names_an_entity(parse_filters({"user_id": {"ne": "a"}}))
    assert not names_an_entity(parse_filters({"k": "user_id"}))


def test_a_filter_mentions_a_column_and_not_the_metadata_key_of_its_name():
    assert mentions(parse_filters({"NOT": {"review_status": "rejected"}}), "review_status")
    assert not mentions(parse_filters({"review_status": 1}), "review_status")


def test_an_id_is_a_trimmed_word_of_at_most_255_characters():
    assert entity_id(" a ", "user_id") == "a"
    for bad in (None, 1, "", "\t", "a b", "a\nb", "a\0b", "x" * 256):
        with pytest.raises(InvalidInputError, match="user_id"):
            entity_id(bad, "user_id")
