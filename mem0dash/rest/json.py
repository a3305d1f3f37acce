"""JSON in and out, strictly: what the databases cannot keep is refused at the door."""

import json
from collections.abc import Mapping
from typing import Any

import orjson
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer


class StrictJSONParser(BaseParser):
    """orjson refuses NaN, lone surrogates and nesting beyond 1024 levels; NUL is refused here."""

    media_type = "application/json"
    MAX_DEPTH = 64

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        raw = stream.read()
        try:
            data = orjson.loads(raw) if raw.strip() else None
        except orjson.JSONDecodeError as error:
            raise ParseError(str(error)) from error
        if _deeper_than(data, self.MAX_DEPTH):
            raise ParseError(f"nested deeper than {self.MAX_DEPTH} levels")
        if b"\\u0000" in raw and _holds_nul(data):
            raise ParseError("NUL characters are not allowed")
        return data


class OrjsonRenderer(BaseRenderer):
    """JSON by orjson; times as ISO 8601 with offset."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> bytes:
        if data is None and _has_no_body(renderer_context):
            return b""
        try:
            return orjson.dumps(data)
        except TypeError:  # an integer beyond 64 bits, which jsonb makes of 1e20
            return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


class AlwaysJson(BaseContentNegotiation):
    """Reads and answers a view's one format whatever the headers say: clients forget them."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(
        self, request: Any, renderers: Any, format_suffix: str | None = None
    ) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


def _has_no_body(context: Mapping[str, Any] | None) -> bool:
    response = (context or {}).get("response")
    return response is not None and response.status_code == 204


def _holds_nul(data: Any) -> bool:
    if isinstance(data, str):
        return "\0" in data
    if isinstance(data, dict):
        return any(_holds_nul(k) or _holds_nul(v) for k, v in data.items())
    return isinstance(data, list) and any(map(_holds_nul, data))


def _deeper_than(data: Any, depth: int) -> bool:
    if not isinstance(data, dict | list):
        return False
    if depth == 0:
        return True
    return any(
        _deeper_than(v, depth - 1) for v in (data.values() if isinstance(data, dict) else data)
    )
