"""Strict JSON in and out; refuses what the databases cannot store."""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any, Final
from uuid import UUID

import orjson
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer

MAX_DEPTH: Final = 64


def loads(raw: bytes) -> Any:
    """Parses JSON; ValueError, with a short reason, if it is invalid or cannot be stored.

    orjson refuses NaN, infinity, lone surrogates and nesting beyond 1024 levels, and makes a float
    of an integer beyond 64 bits. Nesting beyond MAX_DEPTH and NUL characters are refused here.
    """
    data = orjson.loads(raw)
    if _deeper_than(data, MAX_DEPTH):
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if b"\\u0000" in raw and _holds_nul(data):
        raise ValueError("NUL characters are not allowed")
    return data


def field_of(raw: bytes, name: str) -> Any:
    """A field of a JSON object; None if the JSON is not an object or has no such field.

    JSON without the name is not parsed, unless it has escapes, which may spell the name.
    """
    if name.encode() not in raw and b"\\u" not in raw:
        return None
    try:
        data = orjson.loads(raw)
    except ValueError:
        return None
    return data.get(name) if isinstance(data, dict) else None


def dumps(data: Any, option: int = 0) -> bytes:
    """`data` as JSON; `option` is orjson's."""
    try:
        return orjson.dumps(data, option=option)
    except TypeError:  # an integer beyond 64 bits, which jsonb makes of 1e20
        return json.dumps(
            data, ensure_ascii=False, separators=(",", ":"), default=_written
        ).encode()


def _written(value: Any) -> str:
    """Times and ids in orjson's format; TypeError for what orjson cannot write either."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


class StrictJSONParser(BaseParser):
    """A JSON body; ParseError if `loads` refuses it."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        raw = stream.read()
        try:
            return loads(raw) if raw.strip() else None
        except ValueError as error:
            raise ParseError(str(error)) from error


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
        return dumps(data)


class AlwaysJson(BaseContentNegotiation):
    """Always uses a view's only format, whatever the headers say, because clients forget them."""

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
