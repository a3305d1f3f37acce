"""Compiles the filter language to SQL, with the same meaning on SQLite and PostgreSQL."""

import json
from abc import abstractmethod
from datetime import date, datetime, tzinfo
from typing import Any, ClassVar

from django.db.models import BooleanField, Expression, F, Q
from django.db.models.sql.compiler import SQLCompiler

from memories.filters.language import (
    DATE_FIELDS,
    LIST_FIELDS,
    TIME_FIELDS,
    AllOf,
    AnyOf,
    Comparison,
    Node,
    Not,
    Scalar,
    path,
)
from memories.models import ENTITY_FIELDS
from memories.texts import parse_instant, whole_day

NOTHING = Q(pk__in=[])


def to_q(node: Node, zone: tzinfo) -> Q:
    """A Q over Memory that holds exactly where `node` does; a missing key equals nothing.

    `zone` is the project's: a day without a time is that day there.
    """
    if isinstance(node, AllOf):
        result = Q()
        for part in node.parts:
            result &= to_q(part, zone)
        return result
    if isinstance(node, AnyOf):
        if not node.parts:
            return NOTHING
        result = to_q(node.parts[0], zone)
        for part in node.parts[1:]:
            # Q() | x is x in Django, but "always or x" is always.
            other = to_q(part, zone)
            if not result or not other:
                return Q()
            result |= other
        return result
    if isinstance(node, Not):
        inner = to_q(node.part, zone)
        return ~inner if inner else NOTHING
    return _condition(node, zone)


def _condition(c: Comparison, zone: tzinfo) -> Q:
    if c.op == "ne":
        return ~_condition(Comparison(c.field, "eq", c.value, c.metadata), zone)
    if c.op == "nin":
        return ~_condition(Comparison(c.field, "in", c.value, c.metadata), zone)
    if c.op == "in":
        values = c.value if isinstance(c.value, tuple) else (c.value,)
        plain = c.field not in LIST_FIELDS | TIME_FIELDS
        if not c.metadata and plain and None not in values:
            return _indexed(c, Q(**{f"{c.field}__in": [_column_value(c.field, v) for v in values]}))
        each = tuple(Comparison(c.field, "eq", v, c.metadata) for v in values)
        return to_q(AnyOf(each), zone)
    if c.metadata:
        return Q(JsonHolds("metadata", c.op, _scalar(c), key=c.field))
    if c.field in LIST_FIELDS:
        return Q(JsonHolds(c.field, c.op, _scalar(c)))
    return _column(c, zone)


def _indexed(c: Comparison, q: Q) -> Q:
    """`q` with the condition of the field's partial index, without which SQLite passes it over."""
    return q & ~Q(**{c.field: ""}) if c.field in ENTITY_FIELDS and c.field != "user_id" else q


def _scalar(c: Comparison) -> Scalar:
    assert not isinstance(c.value, tuple)  # noqa: S101  (lists went with "in")
    return c.value


def _column(c: Comparison, zone: tzinfo) -> Q:
    nullable = c.field in TIME_FIELDS | DATE_FIELDS
    absent = Q(**{f"{c.field}__isnull": True}) if nullable else Q(**{c.field: ""})
    if c.op == "exists":
        return ~absent
    if c.op == "eq" and c.value is None:
        return absent
    if c.field in TIME_FIELDS and (day := whole_day(c.value, zone)) is not None:
        return _on_day(c.field, c.op, *day)
    value = _column_value(c.field, _scalar(c))
    if c.op == "eq":
        return _indexed(c, Q(**{c.field: value}))
    return (
        Q(TextHolds(c.field, c.op, value)) if not nullable else Q(**{f"{c.field}__{c.op}": value})
    )


def _on_day(field: str, op: str, first: datetime, after: datetime) -> Q:
    """A day without a time is all of it: "up to that day" includes it, "after it" begins behind."""
    since, before = Q(**{f"{field}__gte": first}), Q(**{f"{field}__lt": after})
    if op == "eq":
        return since & before
    return {
        "gt": Q(**{f"{field}__gte": after}),
        "gte": since,
        "lt": Q(**{f"{field}__lt": first}),
        "lte": before,
    }[op]


def _column_value(field: str, value: Scalar) -> Any:
    if field in TIME_FIELDS:
        return parse_instant(value)
    if field in DATE_FIELDS:
        return date.fromisoformat(str(value))
    return value


class _Holds(Expression):
    """A boolean SQL expression over one column, written for each database."""

    conditional: ClassVar[bool] = True
    _COMPARE: ClassVar[dict[str, str]] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

    def __init__(self, column: str, op: str, value: Any) -> None:
        super().__init__(output_field=BooleanField())
        self.column: Any = F(column)
        self.op = op
        self.value = value

    def get_source_expressions(self) -> list[Any]:
        return [self.column]

    def set_source_expressions(self, exprs: Any) -> None:
        [self.column] = exprs

    @property
    def identity(self) -> Any:
        # Two conditions that differ in the value alone must not be taken for one.
        return (type(self), repr(self.column), self.op, repr(self.value), vars(self).get("key"))

    @abstractmethod
    def _parts(self, sql: str, postgresql: bool) -> tuple[str, list[Any]]:
        """The fragment and its parameters; `sql` is the column, which has none of its own."""

    def as_sql(self, compiler: SQLCompiler, connection: Any) -> Any:
        sql, _ = compiler.compile(self.column)
        return self._parts(sql, connection.vendor == "postgresql")


class TextHolds(_Holds):
    """Order and containment of a text column, by code point."""

    def _parts(self, sql: str, postgresql: bool) -> tuple[str, list[Any]]:
        if self.op in self._COMPARE:
            collate = ' COLLATE "C"' if postgresql else ""
            return f"({sql}{collate} {self._COMPARE[self.op]} %s)", [self.value]
        find = "strpos" if postgresql else "instr"
        if self.op == "icontains":
            own, needle, value = _folded(sql, self.value, postgresql)
            return f"({find}({own}, {needle}) > 0)", [value]
        return f"({find}({sql}, %s) > 0)", [self.value]


class JsonHolds(_Holds):
    """A condition on a key of a JSON object, or (`key` None) on the elements of a JSON array.

    Values of another JSON type than the operand's never match; a missing key matches nothing.
    """

    def __init__(self, column: str, op: str, value: Any, *, key: str | None = None) -> None:
        super().__init__(column, op, value)
        self.key = key

    def _parts(self, sql: str, postgresql: bool) -> tuple[str, list[Any]]:
        if self.key is None:
            return self._elements(sql, postgresql)
        found, params = self._somewhere(sql, (self.key,), postgresql)
        if inner := path(self.key):
            within, more = self._somewhere(sql, inner, postgresql)
            found, params = f"({found} OR {within})", [*params, *more]
        is_absent = self.op == "eq" and self.value is None
        return f"(NOT {found})" if is_absent else found, params

    def _somewhere(
        self, sql: str, keys: tuple[str, ...], postgresql: bool
    ) -> tuple[str, list[Any]]:
        """The test holds of the value that the keys lead to, through objects alone."""
        *outer, last = [f"e{depth}" for depth in range(len(keys))]
        test, params = self._test(f"{last}.value" if postgresql else last, postgresql)
        sources = []
        for name, parent in zip([*outer, last], [None, *outer], strict=True):
            if postgresql:
                is_object = f"jsonb_typeof({parent}.value) = 'object'"
                inside = f"CASE WHEN {is_object} THEN {parent}.value ELSE '{{}}'::jsonb END"
                sources.append(f"jsonb_each({inside if parent else sql}) AS {name}(key, value)")
            else:
                inside = f"CASE WHEN {parent}.type = 'object' THEN {parent}.value ELSE '{{}}' END"
                sources.append(f"json_each({inside if parent else sql}) AS {name}")
        key_tests = " AND ".join(f"{name}.key = %s" for name in [*outer, last])
        where = f"{key_tests} AND {test}"
        return f"(EXISTS (SELECT 1 FROM {', '.join(sources)} WHERE {where}))", [*keys, *params]

    def _elements(self, sql: str, postgresql: bool) -> tuple[str, list[Any]]:
        """The column is the array: "has this element", "has any", or "has none" for null."""
        count = f"{'jsonb_array_length' if postgresql else 'json_array_length'}({sql})"
        if self.op == "exists":
            return f"({count} > 0)", []
        if self.value is None:
            return f"({count} = 0)", []
        element = "(a.value #>> '{}')" if postgresql else "a.value"
        needle, value = "%s", self.value if postgresql else _sqlite_value(self.value)
        if self.op == "icontains":
            element, needle, value = _folded(element, self.value, postgresql)
        if postgresql:
            each = f"jsonb_array_elements({sql}) AS a(value)"
            element += ' COLLATE "C"' if self.op in self._COMPARE else ""
        else:
            each = f"json_each({sql}) AS a"
        compare = self._COMPARE.get(self.op, "=")
        return f"(EXISTS (SELECT 1 FROM {each} WHERE {element} {compare} {needle}))", [value]

    def _test(self, at: str, postgresql: bool) -> tuple[str, list[Any]]:
        if self.op == "exists" or self.value is None:
            null = f"jsonb_typeof({at}) <> 'null'" if postgresql else f"{at}.type <> 'null'"
            return null, []
        if self.op == "eq":
            return _equal(at, self.value, postgresql)
        if self.op in self._COMPARE:
            return _ordered(at, self._COMPARE[self.op], self.value, postgresql)
        return _contained(at, self.value, postgresql, folded=self.op == "icontains")


def _equal(at: str, value: Scalar, postgresql: bool) -> tuple[str, list[Any]]:
    if postgresql:
        return f"{at} = %s::jsonb", [json.dumps(value)]
    if isinstance(value, bool):
        return f"{at}.type = %s", ["true" if value else "false"]
    types = "('text')" if isinstance(value, str) else "('integer', 'real')"
    return f"({at}.type IN {types} AND {at}.value = %s)", [_sqlite_value(value)]


def _ordered(at: str, compare: str, value: Scalar, postgresql: bool) -> tuple[str, list[Any]]:
    number = not isinstance(value, str)
    if not postgresql:
        types = "('integer', 'real')" if number else "('text')"
        return f"({at}.type IN {types} AND {at}.value {compare} %s)", [_sqlite_value(value)]
    if number:
        # CASE keeps the cast away from values that are no numbers.
        cast = f"CASE WHEN jsonb_typeof({at}) = 'number' THEN ({at} #>> '{{}}')::numeric END"
        return f"(({cast}) {compare} %s::numeric)", [value]
    kind = f"jsonb_typeof({at}) = 'string'"
    return f"""({kind} AND ({at} #>> '{{}}') COLLATE "C" {compare} %s)""", [value]


def _contained(at: str, value: Scalar, postgresql: bool, *, folded: bool) -> tuple[str, list[Any]]:
    """A string holds the operand as a substring, an array as an element."""
    element, params = _element(at, value, postgresql, folded=folded)
    if not isinstance(value, str):
        return element, params
    text, needle, own = f"({at} #>> '{{}}')" if postgresql else f"{at}.value", "%s", value
    if folded:
        text, needle, own = _folded(text, value, postgresql)
    if postgresql:
        part = f"(jsonb_typeof({at}) = 'string' AND strpos({text}, {needle}) > 0)"
    else:
        part = f"({at}.type = 'text' AND instr({text}, {needle}) > 0)"
    return f"({part} OR {element})", [own, *params]


def _element(at: str, value: Scalar, postgresql: bool, *, folded: bool) -> tuple[str, list[Any]]:
    """An array has the operand as an element. CASE keeps what is no array away from unpacking."""
    if postgresql:
        array = f"CASE WHEN jsonb_typeof({at}) = 'array' THEN {at} ELSE '[]'::jsonb END"
        if not folded:
            return f"(({array}) @> %s::jsonb)", [json.dumps(value)]
        own, needle, parameter = _folded("(a.value #>> '{}')", str(value), postgresql)
        unpacked = f"jsonb_array_elements({array}) AS a(value)"
        same = f"jsonb_typeof(a.value) = 'string' AND {own} = {needle}"
        return f"EXISTS (SELECT 1 FROM {unpacked} WHERE {same})", [parameter]
    array = f"CASE WHEN {at}.type = 'array' THEN {at}.value ELSE '[]' END"
    if isinstance(value, bool):
        types = "('true', 'false')"
    else:
        types = "('text')" if isinstance(value, str) else "('integer', 'real')"
    own, needle, parameter = "a.value", "%s", _sqlite_value(value)
    if folded:
        own, needle, parameter = _folded(own, str(value), postgresql)
    test = f"a.type IN {types} AND {own} = {needle}"
    return f"EXISTS (SELECT 1 FROM json_each({array}) AS a WHERE {test})", [parameter]


def _folded(sql: str, value: str, postgresql: bool) -> tuple[str, str, str]:
    """The SQL, the placeholder and the parameter that compare without regard to case.

    PostgreSQL has no case folding; upper case by ICU, whatever the locale of the database, takes ß
    and SS, and the two small sigmas, for the same, as case folding does.
    """
    if postgresql:
        icu = 'COLLATE "und-x-icu"'
        return f"upper({sql} {icu})", f"upper(%s::text {icu})", value
    return f"mem0dash_casefold({sql})", "%s", value.casefold()


def _sqlite_value(value: Scalar) -> Any:
    if isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value
