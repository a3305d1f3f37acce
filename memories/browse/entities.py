"""Users, agents, apps and runs as people look through them: found by name, sorted, page by page."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connection
from django.db.models import Count, F, Max, QuerySet, Window

from core.errors import InvalidInputError
from core.principal import Principal, Scope
from memories.models import Memory
from memories.visibility import ENTITY_TYPES, filter_reachable, plain_ids

PER_PAGE: Final = 50
# Beyond this many the tabs of the others say "1,000+"; the tab itself shows the exact number.
COUNTED: Final = 1_000
ORDERS: Final = {
    "recent": ("-last", "name"),
    "oldest": ("last", "name"),
    "most": ("-memories", "name"),
    "fewest": ("memories", "name"),
    "name": ("name",),
    "name-desc": ("-name",),
}


@dataclass(frozen=True, slots=True)
class EntityRow:
    """One user, agent, app or run: how many live memories it owns, and when one last changed."""

    name: str
    memories: int
    last: datetime


@dataclass(frozen=True, slots=True)
class EntityPage:
    """`total` entities match on `pages` pages; `rows` are those of page `number`, from 1 on."""

    rows: list[EntityRow]
    total: int
    number: int
    pages: int
    per_page: int


def entity_page(
    principal: Principal,
    type_: str,
    *,
    q: str = "",
    sort: str = "recent",
    number: int = 1,
    per_page: int = PER_PAGE,
) -> EntityPage:
    """The entities of one type whose name contains `q`, whatever its case; scope `read`.

    A page beyond the last one is the last one. One statement, three at the most.
    InvalidInputError for a type or an order that there is not.
    """
    principal.require(Scope.READ)
    groups = _groups(principal, field_of(type_), q, sort)
    number = max(1, number)
    groups_of_page = _rows(groups, number, per_page)
    if not groups_of_page and number > 1:
        # The count comes with the rows: where there are none, the first page has to tell it.
        first = _rows(groups, 1, per_page)
        number = min(number, _pages(first, per_page))
        groups_of_page = first if number == 1 else _rows(groups, number, per_page)
    total = groups_of_page[0]["total"] if groups_of_page else 0
    rows = [EntityRow(row["name"], row["memories"], row["last"]) for row in groups_of_page]
    return EntityPage(rows, total, number, _pages(groups_of_page, per_page), per_page)


def entity_counts(principal: Principal) -> dict[str, int]:
    """How many users, agents, apps and runs own memories, by type; COUNTED + 1 says "more than
    COUNTED". Scope `read`. One statement for each type, of one step in the index for each entity.
    """
    principal.require(Scope.READ)
    return {type_: _distinct(principal, field) for type_, field in ENTITY_TYPES.items()}


def field_of(type_: str) -> str:
    """The field of a type, such as "user_id" of "user"; InvalidInputError where there is none."""
    if type_ not in ENTITY_TYPES:
        raise InvalidInputError(f"There is no type of entity “{type_}”: user, agent, app or run.")
    return ENTITY_TYPES[type_]


def _groups(principal: Principal, field: str, q: str, sort: str) -> QuerySet[Memory, Any]:
    if sort not in ORDERS:
        raise InvalidInputError(f"Entities cannot be sorted by “{sort}”.")
    if "\0" in q:
        raise InvalidInputError("A name holds no NUL character.")
    rows = filter_reachable(principal).exclude(**{field: ""})
    if q:
        rows = rows.filter(**{f"{field}__icontains": q})
    # Count("*"), not the id: then the index of the field holds all that is asked for.
    groups = rows.values(name=F(field)).annotate(memories=Count("*"), last=Max("updated_at"))
    return groups.annotate(total=Window(Count("*"))).order_by(*ORDERS[sort])


def _rows(groups: QuerySet[Memory, Any], number: int, per_page: int) -> list[dict[str, Any]]:
    return list(groups[(number - 1) * per_page : number * per_page])


def _pages(rows: list[dict[str, Any]], per_page: int) -> int:
    return max(1, -(-rows[0]["total"] // per_page)) if rows else 1


# From each name straight to the next one in the index. Neither database does so by itself for
# DISTINCT: with forty agents they read a million entries of the index.
_DISTINCT_SQL: Final = """
WITH RECURSIVE seen(name, n) AS (
  SELECT MIN({field}), 1 FROM memories_memory
   WHERE project_id = %s AND deleted_at IS NULL AND NOT ({field} = '')
  UNION ALL
  SELECT (SELECT MIN({field}) FROM memories_memory
           WHERE project_id = %s AND deleted_at IS NULL AND NOT ({field} = '')
             AND {field} > seen.name), n + 1
    FROM seen WHERE seen.name IS NOT NULL AND n <= %s
)
SELECT COUNT(name) FROM seen
"""


def _distinct(principal: Principal, field: str) -> int:
    if principal.entity_limit:
        values = filter_reachable(principal).exclude(**{field: ""}).values(field).distinct()
        number: int = values.order_by()[: COUNTED + 1].count()
        return number
    [project] = plain_ids(principal.project.id)
    with connection.cursor() as cursor:
        cursor.execute(_DISTINCT_SQL.format(field=field), [project, project, COUNTED])
        row = cursor.fetchone()
    return int(row[0])
