"""The OSS dialect: the memory routes of mem0's own self-hosted server."""

from typing import ClassVar

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from core import limits
from core.errors import InvalidInputError, NotFoundError
from core.http.waiting import ProviderWait, waits_for
from core.principal import Principal, Scope
from core.rest.bodies import body_of, path_of
from core.rest.schemas import MESSAGE, answers
from core.rest.views import OssView
from memories import queries, visibility
from memories.adding import service as adding
from memories.api.headers import IDEMPOTENCY_KEY, PROBLEM_HEADER, SEARCH_HEADER, STORED_HEADER
from memories.api.oss import inputs, schemas, shapes
from memories.editing import service as editing
from memories.editing.service import UNSET
from memories.filters import AllOf, Comparison, Node, parse_filters
from memories.filters.language import names_an_entity
from memories.models import ENTITY_FIELDS
from memories.search import service as search
from memories.texts import entity_id

LIST_DEFAULT = 20
LIST_ALL_DEFAULT = 1000
SEARCH_DEFAULT = 20
THRESHOLD_DEFAULT = 0.1
NO_IDENTIFIER = "At least one identifier is required."
# The answer is cut off after so many.
CUT_HEADER = "X-Mem0dash-Cut"


def _named(principal: Principal, **ids: str | None) -> Node | None:
    """The filter for the ids that a call names; the project's default user for none, or None."""
    entities = {name: entity_id(value, name) for name, value in ids.items() if value is not None}
    if not entities and principal.project.default_user_id:
        entities = {"user_id": principal.project.default_user_id}
    if not entities:
        return None
    return AllOf(tuple(Comparison(name, "eq", value) for name, value in entities.items()))


class MemoriesView(OssView):
    QUERY: ClassVar = {"GET": inputs.ListQuery, "DELETE": inputs.DeleteQuery}

    @waits_for(inputs.add_waits)
    @extend_schema(
        operation_id="add_memories",
        summary="Store messages as memories",
        request=inputs.MemoryCreate,
        parameters=[IDEMPOTENCY_KEY],
        responses=answers(schemas.ADDED, 409),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, inputs.MemoryCreate)
        limits.check_messages(body.messages)
        result = adding.add_memories(
            self.caller(),
            messages=[message.model_dump(exclude_none=True) for message in body.messages],
            entities={
                "user_id": body.user_id,
                "agent_id": body.agent_id,
                "run_id": body.run_id,
                "app_id": body.app_id,
            },
            metadata=body.metadata,
            expiration_date=inputs.day(body.expiration_date),
            infer=body.infer is not False,
            memory_type=body.memory_type,
            prompt=body.prompt,
            idempotency_key=request.headers.get("Idempotency-Key", "").strip(),
        )
        return Response({"results": result.results}, headers={STORED_HEADER: result.stored})

    @extend_schema(
        operation_id="list_memories",
        summary="List memories of an entity; of everyone with scope admin",
        responses=answers(schemas.MEMORIES),
    )
    def get(self, request: Request) -> Response:
        query = self.read_query(inputs.ListQuery)
        principal = self.caller()
        where = _named(
            principal,
            user_id=query.user_id,
            agent_id=query.agent_id,
            run_id=query.run_id,
            app_id=query.app_id,
        )
        if where is None and query.names_nobody():
            raise InvalidInputError(NO_IDENTIFIER)
        if where is None:
            offset, limit = query.window(LIST_ALL_DEFAULT)
            rows = queries.list_all(principal, limit=limit, offset=offset)
            return Response({"results": [shapes.listed_shape(row) for row in rows]})
        offset, limit = query.window(LIST_DEFAULT)
        found = queries.list_memories(
            principal,
            where=where,
            limit=limit,
            offset=offset,
            show_expired=query.show_expired,
        )
        return Response({"results": [shapes.memory_shape(row) for row in found]})

    @extend_schema(
        operation_id="delete_memories",
        summary="Delete all memories of an entity (scope admin)",
        responses=answers(MESSAGE),
    )
    def delete(self, request: Request) -> Response:
        principal = self.caller()
        principal.require(Scope.ADMIN, "Admin role required.")
        query = self.read_query(inputs.DeleteQuery)
        ids = {
            name: entity_id(value, name)
            for name in ENTITY_FIELDS
            if (value := getattr(query, name)) is not None
        }
        # Nothing recognised is never "delete everything", and never the default user either.
        if not ids:
            raise InvalidInputError(NO_IDENTIFIER)
        conditions = tuple(Comparison(name, "eq", value) for name, value in ids.items())
        editing.delete_matching(principal, AllOf(conditions))
        return Response({"message": "All relevant memories deleted"})


class MemoryView(OssView):
    @extend_schema(
        operation_id="get_memory",
        summary="Get one memory",
        responses=answers(schemas.MEMORY_OR_NULL),
    )
    def get(self, request: Request, memory_id: str) -> Response:
        try:
            memory = queries.get_memory(self.caller(), memory_id)
        except NotFoundError:
            return Response(None)  # as the original: 200 and null
        return Response(shapes.memory_shape(memory, score=None))

    @waits_for(inputs.update_waits)
    @extend_schema(
        operation_id="update_memory",
        summary="Change text, metadata or expiry of a memory",
        request=inputs.MemoryUpdate,
        responses=answers(MESSAGE, 409),
    )
    def put(self, request: Request, memory_id: str) -> Response:
        body = body_of(request, inputs.MemoryUpdate)
        has_date = "expiration_date" in body.model_fields_set
        try:
            editing.update_memory(
                self.caller(),
                memory_id,
                text=body.text,
                metadata=body.metadata,
                expiration_date=inputs.day(body.expiration_date) if has_date else UNSET,
            )
        except NotFoundError:
            raise NotFoundError(
                f"Memory with id {memory_id} not found. Please provide a valid 'memory_id'"
            ) from None
        return Response({"message": "Memory updated successfully!"})

    @extend_schema(
        operation_id="delete_memory",
        summary="Delete one memory",
        responses=answers(MESSAGE),
    )
    def delete(self, request: Request, memory_id: str) -> Response:
        editing.delete_memory(self.caller(), memory_id)
        return Response({"message": "Memory deleted successfully"})


class HistoryView(OssView):
    @extend_schema(
        operation_id="memory_history",
        summary="Everything that happened to a memory",
        responses=answers(schemas.HISTORY),
    )
    def get(self, request: Request, memory_id: str) -> Response:
        rows = queries.history(self.caller(), memory_id)
        return Response([shapes.revision_shape(row) for row in rows])


class SearchView(OssView):
    @waits_for(ProviderWait.QUERY)
    @extend_schema(
        operation_id="search_memories",
        summary="Find memories by meaning",
        request=inputs.SearchRequest,
        responses=answers(schemas.MEMORIES),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, inputs.SearchRequest)
        principal = self.caller()
        threshold = THRESHOLD_DEFAULT if body.threshold is None else body.threshold
        requested = body.at_most()
        top_k = SEARCH_DEFAULT if requested is None else requested
        if top_k > limits.TOP_K:
            raise InvalidInputError(f"Invalid top_k: {top_k}. Must be at most {limits.TOP_K}.")
        answer = search.search_memories(
            principal,
            body.query,
            where=_search_filter(principal, body),
            top_k=top_k,
            threshold=threshold,
            show_expired=bool(body.show_expired),
        )
        results = [
            shapes.hit_shape(hit, threshold=threshold, explain=bool(body.explain))
            for hit in answer.hits
        ]
        headers: dict[str, str] = {SEARCH_HEADER: answer.mode}
        if answer.problem:
            headers[PROBLEM_HEADER] = answer.problem
        return Response({"results": results}, headers=headers)


def _search_filter(principal: Principal, body: inputs.SearchRequest) -> Node:
    """Body filters with the deprecated top-level ids merged in; ids may stand at any depth."""
    parts: list[Node] = [parse_filters(body.filters)] if body.filters else []
    top = {name: value for name in ENTITY_FIELDS if (value := getattr(body, name)) is not None}
    entity_filter = _named(principal, **top) if top else None
    if entity_filter is not None:
        parts.append(entity_filter)
    where: Node = AllOf(tuple(parts))
    if not names_an_entity(where):
        default = _named(principal)
        if default is None:
            raise InvalidInputError(
                "filters must contain at least one of: user_id, agent_id, run_id. "
                "Example: filters={'user_id': 'u1'}"
            )
        where = AllOf((where, default))
    return where


class EntitiesView(OssView):
    TYPES: ClassVar = {name: visibility.ENTITY_TYPES[name] for name in ("user", "agent", "run")}

    @extend_schema(
        operation_id="list_entities",
        summary="Users, agents and runs with counts",
        responses=answers(schemas.ENTITIES),
    )
    def get(self, request: Request) -> Response:
        entities = queries.list_entities(self.caller(), self.TYPES)
        body = [shapes.entity_shape(entity) for entity in entities[: limits.ENTITIES]]
        # The wire knows no pages here.
        headers = {CUT_HEADER: str(limits.ENTITIES)} if len(entities) > len(body) else None
        return Response(body, headers=headers)


class EntityView(OssView):
    @extend_schema(
        operation_id="delete_entity",
        summary="Delete all memories of an entity (scope admin)",
        parameters=[
            OpenApiParameter("entity_type", location="path", enum=["user", "agent", "run"]),
        ],
        responses=answers(MESSAGE),
    )
    def delete(self, request: Request, entity_type: str, entity_id: str) -> Response:
        principal = self.caller()
        principal.require(Scope.ADMIN, "Admin role required.")
        path_of({"entity_type": entity_type}, inputs.EntityPath)
        field = visibility.ENTITY_TYPES[entity_type]
        if "\0" in entity_id:
            raise InvalidInputError("NUL characters are not allowed in an id.")
        editing.delete_matching(principal, Comparison(field, "eq", entity_id))
        return Response({"message": "Entity deleted"})
