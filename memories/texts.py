"""Text, instants and ids as values: folded, fingerprinted, parsed."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, tzinfo
from typing import Any

from django.utils.dateparse import parse_datetime

from core import zones
from core.errors import InvalidInputError


def fold(text: str) -> str:
    """`text` for substring search: NFKC, then case folded."""
    return unicodedata.normalize("NFKC", text).casefold()


def fingerprint(text: str) -> str:
    """SHA-256 (hex) of the case-folded text with white space collapsed."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()


def transcript_fingerprint(messages: Sequence[Mapping[str, Any]]) -> str:
    """The fingerprint of a conversation: role and text of each message, in order."""
    turns = (
        "\x1f".join((message["role"], " ".join(message["content"].casefold().split())))
        for message in messages
    )
    return hashlib.sha256("\x1e".join(turns).encode()).hexdigest()


def parse_instant(value: object) -> datetime | None:
    """An ISO 8601 instant, in UTC if it names no zone; None if the value is not one."""
    if not isinstance(value, str):
        return None
    try:
        parsed = parse_datetime(value) or datetime.fromisoformat(value)
        # Converted inside the try, because the ends of the calendar overflow.
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def whole_day(value: object, zone: tzinfo) -> tuple[datetime, datetime] | None:
    """The start and the end of the day in the zone if the value is a date without a time, else
    None."""
    try:
        day = date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return (zones.start_of(day, zone), zones.end_of(day, zone)) if day else None


def entity_id(value: object, name: str) -> str:
    """A client-chosen id, trimmed; InvalidInputError when it is empty, spaced out or too long."""
    if not isinstance(value, str):
        raise InvalidInputError(f"Invalid {name}: must be a string.")
    trimmed = value.strip()
    if not trimmed:
        raise InvalidInputError(
            f"Invalid {name}: cannot be empty or whitespace-only. Provide a valid identifier."
        )
    if any(character.isspace() for character in trimmed):
        raise InvalidInputError(
            f"Invalid {name}: cannot contain whitespace. Provide a valid identifier without spaces."
        )
    if len(trimmed) > 255:
        raise InvalidInputError(f"Invalid {name}: cannot be longer than 255 characters.")
    if "\0" in trimmed:
        raise InvalidInputError(f"Invalid {name}: cannot contain a NUL character.")
    return trimmed
