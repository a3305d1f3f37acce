"""The MCP server: what the SDK asks, answered by tools, prompts and resources.

Specification: modelcontextprotocol.io, revisions 2024-11-05 to 2026-07-28. The SDK speaks the
transport and both eras of the protocol; nothing here keeps anything between two requests.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    TextContent,
    TextResourceContents,
)

from core.errors import InvalidInputError, NotFoundError
from core.http.waiting import ProviderWait
from core.rest import json
from core.version import VERSION
from memories.mcp import caller, errors, prompts, resources, working
from memories.mcp.tools import TOOLS

Context = ServerRequestContext[dict[str, Any], Any]

NAME: Final = "mem0-server"
EXTRACTING: Final = "Still at it: the language model is reading."


def build() -> Server[dict[str, Any]]:
    """A server; the SDK runs each of them once."""
    server = Server(
        NAME,
        version=VERSION,
        title="mem0dash",
        instructions=prompts.INSTRUCTIONS,
        get_tool_input_schema=_input_schema,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
        on_list_prompts=_list_prompts,
        on_get_prompt=_get_prompt,
        on_list_resources=_list_resources,
        on_list_resource_templates=_list_templates,
        on_read_resource=_read_resource,
    )
    # Spans for OpenTelemetry, which nobody collects here.
    server.middleware.clear()
    return server


def _input_schema(name: str) -> Mapping[str, Any] | None:
    spec = TOOLS.get(name)
    return spec.definition.input_schema if spec else None


# --- Tools ---------------------------------------------------------------------------------------
async def _list_tools(ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[spec.definition for spec in TOOLS.values()])


async def _call_tool(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
    spec = TOOLS.get(params.name)
    if spec is None:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name[:100]}")
    calling = caller.current.get()
    try:
        given = spec.arguments.read(params.name, params.arguments or {})
        answer = await working.run(
            calling,
            partial(spec.function, calling.principal, given),
            waits=given.waits(),
            reads=spec.reads,
            progress=partial(_tell_progress, ctx),
        )
    except Exception as error:  # noqa: BLE001  (the model reads a sentence; the log has the rest)
        text = errors.told(error, calling)
        return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
    content = TextContent(type="text", text=json.dumps(answer).decode())
    return CallToolResult(content=[content], structured_content=answer)


async def _tell_progress(ctx: Context, seconds: float) -> None:
    await ctx.session.report_progress(round(seconds, 1), None, EXTRACTING)


# --- Prompts -------------------------------------------------------------------------------------
async def _list_prompts(ctx: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
    return ListPromptsResult(prompts=[spec.definition for spec in prompts.PROMPTS.values()])


async def _get_prompt(ctx: Context, params: GetPromptRequestParams) -> GetPromptResult:
    try:
        found = prompts.said(params.name, params.arguments or {})
    except InvalidInputError as error:
        raise MCPError(INVALID_PARAMS, error.message) from None
    if found is None:
        raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name[:100]}")
    return found


# --- Resources -----------------------------------------------------------------------------------
async def _list_resources(
    ctx: Context, params: PaginatedRequestParams | None
) -> ListResourcesResult:
    # Every memory is one, by the templates: listing them is what the tools are for.
    return ListResourcesResult(resources=[])


async def _list_templates(
    ctx: Context, params: PaginatedRequestParams | None
) -> ListResourceTemplatesResult:
    return ListResourceTemplatesResult(resource_templates=resources.TEMPLATES)


async def _read_resource(ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    uri, calling = str(params.uri), caller.current.get()
    waits = ProviderWait.QUERY if resources.may_search(uri) else ProviderWait.NOBODY
    try:
        [found] = await working.run(
            calling,
            lambda: [resources.read(calling.principal, uri)],
            waits=waits,
            reads=True,
        )
    except Exception as error:  # noqa: BLE001  (as for a tool)
        text = errors.told(error, calling)
        known = isinstance(error, InvalidInputError | NotFoundError)
        code = INVALID_PARAMS if known else INTERNAL_ERROR
        raise MCPError(code, text, {"uri": uri}) from None
    if found is None:
        raise MCPError(INVALID_PARAMS, "Unknown resource.", {"uri": uri})
    contents = TextResourceContents(uri=uri, text=found, mime_type=resources.JSON)
    return ReadResourceResult(contents=[contents])
