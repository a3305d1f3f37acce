"""Tables as files: JSON, JSON Lines or CSV, in pieces of UTF-8, in constant memory."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import orjson
from django.http import StreamingHttpResponse
from django.utils import timezone

from core.errors import InvalidInputError
from core.pages import spreadsheets
from core.rest.json import dumps

# Format, which is also the file extension -> media type.
MEDIA_TYPES: Final = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": spreadsheets.MEDIA_TYPE,
}
Batches = Iterable[Iterable[Sequence[Any]]]


def check_format(format_: str, formats: Sequence[str]) -> None:
    """InvalidInputError for a format that is not offered."""
    if format_ not in formats:
        *others, last = formats
        raise InvalidInputError(f"Export as {', '.join(others)} or {last}.")


def pieces(
    format_: str,
    names: Sequence[str],
    batches: Batches,
    *,
    raw: Collection[str] = (),
    option: int = 0,
) -> Iterator[bytes]:
    """The rows as a file, one piece per batch. Columns in `raw` contain JSON text; `option` is
    orjson's. Cells of a CSV are inert in a spreadsheet."""
    if format_ == "csv":
        return spreadsheets.lines(names, batches)
    records = (_records(names, batch, raw, option) for batch in batches)
    return _json(records) if format_ == "json" else (b"\n".join([*some, b""]) for some in records)


def _records(
    names: Sequence[str], batch: Iterable[Sequence[Any]], raw: Collection[str], option: int
) -> list[bytes]:
    records = []
    for row in batch:
        record = dict(zip(names, row, strict=True))
        for name in raw:
            record[name] = orjson.Fragment(record[name])
        records.append(dumps(record, option))
    return records


def _json(batches: Iterable[list[bytes]]) -> Iterator[bytes]:
    opening = b"[\n"
    for records in batches:
        yield opening + b",\n".join(records)
        opening = b",\n"
    yield b"\n]\n" if opening == b",\n" else b"[]\n"


def download(content: Iterator[bytes], name: str, format_: str) -> StreamingHttpResponse:
    """A download with this name and today's date."""
    answer = StreamingHttpResponse(content, content_type=MEDIA_TYPES[format_])
    file = f"{name}-{timezone.now():%Y-%m-%d}.{format_}"
    answer.headers["Content-Disposition"] = f'attachment; filename="{file}"'
    return answer
