"""The tools of prove/everything.py that ask their client for something.

Up to 2025-11-25 a server asks in the middle of a call; since 2026-07-28 it answers with its
questions, and the client calls again with the answers ("multi round-trip requests").
"""

from typing import Any, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

STATES: Final = ["active", "inactive", "pending"]
DEFAULTS: Final = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": STATES, "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
ENUMS: Final[dict[str, Any]] = {
    "untitledSingle": {"type": "string", "enum": STATES},
    "titledSingle": {"type": "string", "oneOf": [{"const": "low", "title": "Low priority"}]},
    "legacyEnum": {"type": "string", "enum": ["s", "l"], "enumNames": ["Small", "Large"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["read", "write"]}},
    "titledMulti": {"type": "array", "items": {"anyOf": [{"const": "bug", "title": "Bug fix"}]}},
}


def form(message: str, **types: str) -> ElicitRequest:
    """A question for fields of these types, all of which are required."""
    schema = {
        "type": "object",
        "properties": {name: {"type": type_} for name, type_ in types.items()},
        "required": list(types),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(text: str, most: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=[message], max_tokens=most)
    )


NAME: Final = form("What is your name?", name="string")


def ask(
    ctx: Context, questions: dict[str, Any], state: str | None = None
) -> InputRequiredResult | None:
    """The questions, unless all of them have an answer of their kind."""
    kinds = {
        ElicitRequest: ElicitResult,
        CreateMessageRequest: CreateMessageResult,
        ListRootsRequest: ListRootsResult,
    }
    answers = ctx.input_responses or {}
    if all(isinstance(answers.get(k), kinds[type(q)]) for k, q in questions.items()):
        return None
    return InputRequiredResult(input_requests=questions, request_state=state)


def add_tools(made: MCPServer[Any]) -> None:
    """Adds the tools of both ways of asking."""
    _add_asking_in_the_middle(made)
    _add_asking_between(made)
    _add_asking_with_state(made)


def _add_asking_in_the_middle(made: MCPServer[Any]) -> None:
    async def elicit(ctx: Context, message: str, fields: dict[str, Any]) -> str:
        schema = {"type": "object", "properties": fields, "required": list(fields)}
        answer = await ctx.session.elicit_form(message, schema, ctx.request_id)
        return f"action={answer.action}, content={answer.content}"

    @made.tool()
    async def test_sampling(prompt: str, ctx: Context) -> str:
        """Asks the client's language model."""
        message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
        answer = await ctx.session.create_message(
            messages=[message], max_tokens=100, related_request_id=ctx.request_id
        )
        return f"LLM response: {getattr(answer.content, 'text', '')}"

    @made.tool()
    async def test_elicitation(message: str, ctx: Context) -> str:
        """Asks the user."""
        fields = {"username": {"type": "string"}, "email": {"type": "string"}}
        return f"User response: {await elicit(ctx, message, fields)}"

    @made.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        """Asks with defaults."""
        return f"Elicitation completed: {await elicit(ctx, 'Who are you?', DEFAULTS)}"

    @made.tool()
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        """Asks for choices."""
        return f"Elicitation completed: {await elicit(ctx, 'What will it be?', ENUMS)}"


def _add_asking_between(made: MCPServer[Any]) -> None:
    @made.tool()
    def test_input_required_result_elicitation(ctx: Context) -> InputRequiredResult | str:
        """Asks for a name."""
        asked = ask(ctx, {"user_name": NAME})
        if asked:
            return asked
        answer: Any = (ctx.input_responses or {})["user_name"]
        return f"Hello, {(answer.content or {}).get('name')}!"

    @made.tool()
    def test_input_required_result_sampling(ctx: Context) -> InputRequiredResult | str:
        """Asks the client's language model."""
        asked = ask(ctx, {"capital_question": sample("What is the capital of France?", 100)})
        if asked:
            return asked
        answer: Any = (ctx.input_responses or {})["capital_question"]
        return str(answer.content.text)

    @made.tool()
    def test_input_required_result_list_roots(ctx: Context) -> InputRequiredResult | str:
        """Asks for the client's roots."""
        asked = ask(ctx, {"client_roots": ListRootsRequest()})
        if asked:
            return asked
        answer: Any = (ctx.input_responses or {})["client_roots"]
        return ", ".join(str(root.uri) for root in answer.roots)

    @made.tool()
    def test_input_required_result_capabilities(ctx: Context) -> InputRequiredResult | str:
        """Asks only for what the client can do."""
        can = ctx.client_capabilities
        questions: dict[str, Any] = {}
        if can is not None and can.elicitation is not None:
            questions["user_name"] = NAME
        if can is not None and can.sampling is not None:
            questions["greeting"] = sample("Generate a greeting", 50)
        return ask(ctx, questions) or "Nothing to ask."


def _add_asking_with_state(made: MCPServer[Any]) -> None:
    confirm = {"confirm": form("Please confirm", ok="boolean")}

    @made.tool()
    def test_input_required_result_request_state(ctx: Context) -> InputRequiredResult | str:
        """Gets its own state back."""
        return ask(ctx, confirm, "asked") or (
            "state-ok" if ctx.request_state == "asked" else "no state"
        )

    @made.tool()
    def test_input_required_result_tampered_state(ctx: Context) -> InputRequiredResult | str:
        """Refuses a state that is not its own, as the SDK does for it."""
        return ask(ctx, confirm, "sealed") or "The state was the same."

    @made.tool()
    def test_input_required_result_multiple_inputs(ctx: Context) -> InputRequiredResult | str:
        """Asks three things at once."""
        questions = {
            "user_name": NAME,
            "greeting": sample("Generate a greeting", 50),
            "client_roots": ListRootsRequest(),
        }
        return ask(ctx, questions, "all") or "All answered."

    @made.tool()
    def test_input_required_result_multi_round(ctx: Context) -> InputRequiredResult | str:
        """Asks twice, one after the other."""
        if ctx.request_state is None:
            name = form("Step 1: What is your name?", name="string")
            return InputRequiredResult(input_requests={"step1": name}, request_state="1")
        if ctx.request_state == "1" and (first := ask(ctx, {"step1": NAME}, "1")):
            return first
        colour = form("Step 2: What is your favorite color?", color="string")
        if ctx.request_state == "1":
            return InputRequiredResult(input_requests={"step2": colour}, request_state="2")
        return ask(ctx, {"step2": colour}, "2") or "Done."
