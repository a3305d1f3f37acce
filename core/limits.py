"""Limits of one request. docs/operations.md has the same figures in a table."""

from collections.abc import Mapping, Sized
from typing import Any, Final

from core.errors import InvalidInputError

# --- What comes over the wire ---------------------------------------------------------------------
# A request's head (its line and headers), and the framing of a chunked body.
HEAD_BYTES: Final = 64 * 1024
# A body without a credential, such as the sign-in form.
OPEN_BODY_BYTES: Final = 64 * 1024
# Of a body that is too large, this much is read and dropped, so that the client gets the answer.
DRAIN_BYTES: Final = 64 * 1024 * 1024
# A body gets more time the more of it has arrived: bytes a second.
BODY_RATE: Final = 16 * 1024
# A client that reads fewer bytes of an answer in CLIENT_SECONDS has stopped reading.
READ_BYTES: Final = 16 * 1024

# --- Inputs ---------------------------------------------------------------------------------------
MESSAGES: Final = 1_000
TEXT_LETTERS: Final = 1_000_000
PROMPT_LETTERS: Final = 100_000
QUERY_LETTERS: Final = 4_000
# Of a value in a filter.
VALUE_LETTERS: Final = 4_000
METADATA_KEYS: Final = 1_000
METADATA_LETTERS: Final = 256 * 1024
METADATA_DEPTH: Final = 20

# --- Answers --------------------------------------------------------------------------------------
TOP_K: Final = 100_000
ENTITIES: Final = 10_000


def check_messages(messages: Sized) -> None:
    """InvalidInputError for too many messages in one add."""
    if len(messages) > MESSAGES:
        raise InvalidInputError(
            f"An add can have at most {MESSAGES:,} messages; this one has {len(messages):,}."
        )


def check_text(text: str, name: str = "A text") -> None:
    """InvalidInputError for a text that is too long to be a memory."""
    if len(text) > TEXT_LETTERS:
        raise InvalidInputError(
            f"{name} can have at most {TEXT_LETTERS:,} characters; this one has {len(text):,}."
        )


def check_query(query: str) -> None:
    """InvalidInputError for a query that is too long."""
    if len(query) > QUERY_LETTERS:
        raise InvalidInputError(
            f"Invalid query: at most {QUERY_LETTERS:,} characters are allowed; "
            f"this one has {len(query):,}."
        )


def check_value(value: str, name: str) -> None:
    """InvalidInputError for a filter's value that is too long."""
    if len(value) > VALUE_LETTERS:
        raise InvalidInputError(
            f"Invalid filter for {name[:80]}: at most {VALUE_LETTERS:,} characters are allowed."
        )


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """InvalidInputError for metadata that are too many, too deep or too long."""
    keys = letters = 0
    level: list[Any] = [metadata]
    for depth in range(METADATA_DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                keys += len(value)
                letters += sum(map(len, value))
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            else:
                letters += len(value) if isinstance(value, str) else 8
        if keys > METADATA_KEYS:
            raise InvalidInputError(f"Metadata can have at most {METADATA_KEYS:,} keys.")
        if letters + 2 * len(inner) > METADATA_LETTERS:
            raise InvalidInputError(f"Metadata can have at most {METADATA_LETTERS:,} characters.")
        if not inner:
            return
        if depth == METADATA_DEPTH:
            break
        level = inner
    raise InvalidInputError(f"Metadata can be nested at most {METADATA_DEPTH} levels deep.")
