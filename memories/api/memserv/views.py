"""The memserv dialect: what mem0-server speaks below /api/v1."""

from collections.abc import Callable
from typing import Any, ClassVar, Final

from django.http import HttpRequest, HttpResponseRedirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from core import limits
from core.counters import BULK_DELETED
from core.errors import InvalidInputError, NotFoundError
from core.http.waiting import ProviderWait, waits_for
from core.pages.paging import AscendingKey
from core.rest.bodies import body_of
from core.rest.views import OssView
from memories import queries, visibility
from memories.adding import service as adding
from memories.api.headers import IDEMPOTENCY_KEY, PROBLEM_HEADER, SEARCH_HEADER, STORED_HEADER
from memories.api.memserv import inputs, shapes
from memories.api.memserv.errors import memserv_exception_handler
from memories.api.oss.schemas import MEMORY
from memories.api.oss.shapes import memory_shape, revision_shape
from memories.bulk import sweep
from memories.editing import service as editing
from memories.search import service as search
from memories.search import substring as keyword

THRESHOLD: Final = 0.1
NOT_FOUND: Final = "Memory not found"


class MemservView(OssView):
    # A comment, as for OssView: a view whose errors have the shapes of this dialect.

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        return memserv_exception_handler


class MemoriesView(MemservView):
    QUERY: ClassVar = {"GET": inputs.ListMemories}

    @waits_for(ProviderWait.LLM)
    @extend_schema(
        operation_id="memserv_add_memory",
        summary="Store a text or a conversation, unless it is stored already",
        request=inputs.AddMemory,
        parameters=[IDEMPOTENCY_KEY],
        responses=shapes.answers(shapes.ADDED, 409),
    )
    def post(self, request: Request) -> Response:
        body, principal = body_of(request, inputs.AddMemory), self.caller()
        messages = body.messages_of()
        if not messages:
            raise InvalidInputError(inputs.NOTHING_TO_ADD)
        limits.check_messages(messages)
        user_id = inputs.owner_of(principal, body.user_id)
        if not (user_id or body.agent_id or body.app_id or body.run_id):
            raise InvalidInputError(inputs.NO_USER)
        result = adding.add_memories(
            principal,
            messages=messages,
            entities={
                "user_id": user_id,
                "agent_id": body.agent_id,
                "app_id": body.app_id,
                "run_id": body.run_id,
            },
            metadata=body.told(),
            idempotency_key=request.headers.get("Idempotency-Key", "").strip(),
            dedup=body.dedup,
        )
        shape = shapes.added_shape(result.results, result.duplicate_of)
        return Response(shape, headers={STORED_HEADER: result.stored})

    @extend_schema(
        operation_id="memserv_list_memories",
        summary="A page of the memories, in an order that stays as it is while others are added",
        responses=shapes.answers(shapes.PAGE),
    )
    def get(self, request: Request) -> Response:
        query, principal = self.read_query(inputs.ListMemories), self.caller()
        where = inputs.read_filter(principal, query)
        rows, has_more = queries.page(
            principal, where=where, limit=query.limit, offset=query.offset, after=query.place()
        )
        last = rows[-1] if has_more else None
        if query.exclude_expired:
            # After the page was cut: pages stay where they are when something expires.
            now = timezone.now()
            rows = [row for row in rows if not visibility.has_expired(row, now)]
        page = {"limit": query.limit, "offset": query.offset, "has_more": has_more}
        body: dict[str, Any] = {
            "results": [memory_shape(row) for row in rows],
            "pagination": page,
        }
        if last is not None:
            body["next_cursor"] = str(AscendingKey(last.created_at, last.id))
        return Response(body)


class SearchView(MemservView):
    @waits_for(inputs.search_waits)
    @extend_schema(
        operation_id="memserv_search_memories",
        summary="Find memories by meaning, or by a part of their text",
        request=inputs.SearchMemories,
        responses=shapes.answers(shapes.FINDINGS),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, inputs.SearchMemories)
        if body.mode == "keyword":
            return self._by_words(body)
        principal = self.caller()
        recency = search.Recency(body.recency_weight, body.recency_half_life_days)
        answer = search.search_memories(
            principal,
            body.query,
            where=inputs.read_filter(principal, body),
            top_k=body.limit,
            threshold=THRESHOLD,
            show_expired=not body.exclude_expired,
            recency=recency,
        )
        headers: dict[str, str] = {SEARCH_HEADER: answer.mode}
        if answer.problem:
            headers[PROBLEM_HEADER] = answer.problem
        results = [shapes.found_shape(hit) for hit in answer.hits]
        return Response({"results": results}, headers=headers)

    def _by_words(self, body: inputs.SearchMemories) -> Response:
        principal = self.caller()
        where = inputs.read_filter(principal, body)
        rows = (
            keyword.find(
                principal,
                body.query,
                where=where,
                limit=body.limit,
                show_expired=not body.exclude_expired,
            )
            if body.query.strip()
            else []
        )
        return Response(
            {"results": [shapes.flat_shape(row) for row in rows]},
            headers={SEARCH_HEADER: "keyword"},
        )


class DeleteBulkView(MemservView):
    @extend_schema(
        operation_id="memserv_delete_bulk",
        summary="Count what filters match and, with confirm, delete it, 1000 a call (scope review)",
        request=inputs.DeleteBulk,
        responses=shapes.answers(shapes.SWEPT, 409),
    )
    def post(self, request: Request) -> Response:
        body, principal = body_of(request, inputs.DeleteBulk), self.caller()
        where = inputs.delete_filter(principal, body)
        swept = sweep.sweep(principal, where, confirm=body.confirm)
        BULK_DELETED.inc(swept.deleted)
        return Response(shapes.swept_shape(swept, dry_run=not body.confirm))


class MemoryView(MemservView):
    @extend_schema(
        operation_id="memserv_get_memory",
        summary="Get one memory",
        responses=shapes.answers(MEMORY),
    )
    def get(self, request: Request, memory_id: str) -> Response:
        try:
            memory = queries.get_memory(self.caller(), memory_id)
        except NotFoundError:
            raise NotFoundError(NOT_FOUND) from None
        return Response(memory_shape(memory, score=None))

    @waits_for(ProviderWait.EMBEDDER)
    @extend_schema(
        operation_id="memserv_update_memory",
        summary="Give a memory another text, and more metadata",
        request=inputs.ChangeMemory,
        responses=shapes.answers(shapes.UPDATED, 409),
    )
    def put(self, request: Request, memory_id: str) -> Response:
        body = body_of(request, inputs.ChangeMemory)
        try:
            editing.update_memory(self.caller(), memory_id, text=body.content, metadata=body.told())
        except NotFoundError:
            raise NotFoundError(NOT_FOUND) from None
        return Response({"message": "Memory updated successfully!"})

    @extend_schema(
        operation_id="memserv_delete_memory",
        summary="Delete one memory",
        responses=shapes.answers(shapes.DELETED),
    )
    def delete(self, request: Request, memory_id: str) -> Response:
        try:
            editing.delete_memory(self.caller(), memory_id)
        except NotFoundError:
            raise NotFoundError(NOT_FOUND) from None
        return Response({"deleted": True, "memory_id": memory_id})


class HistoryView(MemservView):
    @extend_schema(
        operation_id="memserv_memory_history",
        summary="Everything that happened to a memory",
        responses=shapes.answers(shapes.HISTORY),
    )
    def get(self, request: Request, memory_id: str) -> Response:
        rows = queries.history(self.caller(), memory_id)
        return Response({"history": [revision_shape(row) for row in rows]})


@require_http_methods(["GET", "POST", "PUT", "DELETE"])
def without_slash(request: HttpRequest, rest: str = "") -> HttpResponseRedirect:
    """Sends on who ends an address with a slash, with method and body, as FastAPI does."""
    path, _, query = request.get_full_path().partition("?")
    response = HttpResponseRedirect(path.rstrip("/") + (f"?{query}" if query else ""))
    response.status_code = 307
    return response
