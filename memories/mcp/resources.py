"""Memories as resources: one by its id, and what a search finds."""

import re
from typing import Final
from urllib.parse import unquote

from mcp_types import ResourceTemplate

from core.errors import InvalidInputError
from core.principal import Principal
from core.rest import json
from memories import queries
from memories.mcp import arguments, shapes, tools

JSON: Final = "application/json"
_ONE: Final = re.compile(r"memory://memories/([^/?#]{1,64})")
_SEARCH: Final = re.compile(r"memory://search/([^/?#]{1,16000})")

TEMPLATES: Final = [
    ResourceTemplate(
        name="memory",
        title="One memory",
        uri_template="memory://memories/{memory_id}",
        description="One memory by its id, as JSON.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        name="search",
        title="Search memories",
        uri_template="memory://search/{query}",
        description="The ten memories that fit a query best, of the project's default user.",
        mime_type=JSON,
    ),
]


def read(principal: Principal, uri: str) -> str | None:
    """The resource as JSON; None for an address of no template. Errors as the tools'."""
    if "\0" in unquote(uri):
        raise InvalidInputError("An address cannot contain a NUL character.")
    if match := _ONE.fullmatch(uri):
        found = queries.get_memory(principal, unquote(match[1]))
        return json.dumps(shapes.memory_shape(found)).decode()
    if match := _SEARCH.fullmatch(uri):
        given = arguments.SearchMemories.read("the search", {"query": unquote(match[1])})
        return json.dumps(tools.search_memories(principal, given)).decode()
    return None


def may_search(uri: str) -> bool:
    """Whether reading it is a search."""
    return _SEARCH.fullmatch(uri) is not None
