"""A server with all that the MCP conformance suite asks for, which no product has at once.

`python -m prove.everything serve` is `manage.py serve` with this server behind /mcp: what stands
before it (hosts, origins, credentials, limits) is the product's. Names, texts and shapes are those
of the suite's scenarios ("Server Implementation Requirements" in its sources).
"""

import asyncio
import base64
import json
import os
import sys
from functools import partial
from typing import Any, Final

from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    ClientCapabilities,
    Completion,
    ContentBlock,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)

from prove import everything_asked

# One red pixel, and no sound at all.
PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8Dw"
    "HwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
WAV: Final = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
PAUSE: Final = 0.05


def build() -> Server[Any]:
    """The server; the SDK runs each of them once."""
    made = MCPServer("everything")
    _add_contents(made)
    _add_telling(made)
    _add_resources(made)
    _add_prompts(made)
    everything_asked.add_tools(made)
    server = made._lowlevel_server
    # Methods of the revisions before 2026-07-28, for which MCPServer has no decorator.
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, _accept)
    server.add_request_handler("resources/subscribe", SubscribeRequestParams, _accept)
    server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, _accept)
    return server


async def _accept(ctx: Any, params: Any) -> EmptyResult:
    return EmptyResult()


def _add_contents(made: MCPServer[Any]) -> None:
    @made.tool()
    def test_simple_text() -> str:
        """Answers with a text."""
        return "This is a simple text response for testing."

    @made.tool()
    def test_image_content() -> list[ContentBlock]:
        """Answers with an image."""
        return [image()]

    @made.tool()
    def test_audio_content() -> list[ContentBlock]:
        """Answers with audio."""
        return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]

    @made.tool()
    def test_embedded_resource() -> list[ContentBlock]:
        """Answers with a resource."""
        text = "This is an embedded resource content."
        return [embedded("test://embedded-resource", text)]

    @made.tool()
    def test_multiple_content_types() -> list[ContentBlock]:
        """Answers with a text, an image and a resource."""
        told = json.dumps({"test": "data", "value": 123})
        return [
            TextContent(type="text", text="Multiple content types test:"),
            image(),
            embedded("test://mixed-content-resource", told, "application/json"),
        ]

    @made.tool()
    def test_error_handling() -> str:
        """Always fails."""
        raise RuntimeError("This tool intentionally returns an error for testing")


def _add_telling(made: MCPServer[Any]) -> None:
    made.add_tool(_log_thrice, "test_tool_with_logging", description="Logs three lines.")
    made.add_tool(_log_thrice, "test_logging_tool", description="Logs three lines.")

    @made.tool()
    async def test_tool_with_progress(ctx: Context) -> str:
        """Tells how far it is."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100, f"Completed step {done} of 100")
            await asyncio.sleep(PAUSE)
        return "All done."

    @made.tool()
    async def test_trigger_tool_change(ctx: Context) -> str:
        """Says that the list of tools has changed."""
        await ctx.notify_tools_changed()
        return "Told."

    @made.tool()
    async def test_trigger_prompt_change(ctx: Context) -> str:
        """Says that the list of prompts has changed."""
        await ctx.notify_prompts_changed()
        return "Told."

    @made.tool()
    def test_missing_capability(ctx: Context) -> str:
        """Works only for clients that can sample."""
        if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
            required = ClientCapabilities(sampling={})  # type: ignore[arg-type]  # made a model
            raise MCPError(
                MISSING_REQUIRED_CLIENT_CAPABILITY,
                "This tool needs sampling.",
                {"requiredCapabilities": required.model_dump(by_alias=True, exclude_none=True)},
            )
        return "The client can sample."

    @made.tool()
    async def test_streaming_elicitation(ctx: Context) -> InputRequiredResult | str:
        """Tells its progress, then asks."""
        await ctx.report_progress(1, 2, "About to ask")
        return everything_asked.ask(ctx, {"user_name": everything_asked.NAME}) or "Answered."


async def _log_thrice(ctx: Context) -> str:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(line)
        await asyncio.sleep(PAUSE)
    return "Logged."


def _add_resources(made: MCPServer[Any]) -> None:
    @made.resource("test://static-text", description="A text", mime_type="text/plain")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @made.resource("test://static-binary", description="An image", mime_type="image/png")
    def static_binary() -> bytes:
        return base64.b64decode(PNG)

    @made.resource("test://watched-resource", description="Watched", mime_type="text/plain")
    def watched() -> str:
        return "Watched resource content"

    @made.resource("test://template/{id}/data", description="By id", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002  (the template's word)
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _add_prompts(made: MCPServer[Any]) -> None:
    @made.prompt(description="Without arguments")
    def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @made.prompt(description="With two arguments")
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @made.prompt(description="With a resource")
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803
        return [
            UserMessage(embedded(resourceUri, "Embedded resource content for testing.")),
            UserMessage("Please process the embedded resource above."),
        ]

    @made.prompt(description="With an image")
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(image()), UserMessage("Please analyze the image above.")]

    @made.prompt(description="Asks what it is about")
    def test_input_required_result_prompt(ctx: Context) -> InputRequiredResult | str:
        question = everything_asked.form("What context should the prompt use?", context="string")
        return everything_asked.ask(ctx, {"user_context": question}) or "In that context."

    @made.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        words = [word for word in ("paris", "park", "party") if word.startswith(argument.value)]
        return Completion(values=words, total=len(words), has_more=False)


def image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return EmbeddedResource(type="resource", resource=contents)


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "prove.everything_settings"
    import django
    from django.core.management import execute_from_command_line

    django.setup()
    from mem0dash import connector

    # Before 2026-07-28 a server asks in a session, and the product keeps none.
    connector.StreamableHTTPSessionManager = partial(  # type: ignore[misc,assignment]
        _with_sessions, connector.StreamableHTTPSessionManager
    )
    execute_from_command_line(["manage.py", *sys.argv[1:]])


def _with_sessions(manager: Any, *args: Any, **options: Any) -> Any:
    return manager(*args, **{**options, "stateless": False})


if __name__ == "__main__":
    main()
