"""A selection in words."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

AGO: Final = re.compile(r"([1-9]\d{0,3})([hd])")
LABELS: Final = {
    "collection": "Collection",
    "user_id": "User",
    "agent_id": "Agent",
    "app_id": "App",
    "run_id": "Run",
    "source": "Source",
    "confidence": "Confidence",
    "review_status": "Review status",
    "expiry": "Expiry",
    "created": "Created",
    "updated": "Updated",
    "metadata": "Metadata",
    "deleted": "Deleted",
}


def _or(values: Iterable[str]) -> str:
    *first, last = values
    return f"{', '.join(first)} or {last}" if first else last


def _named(noun: str) -> Callable[[tuple[str, ...]], str]:
    def say(values: tuple[str, ...]) -> str:
        if values == ("",):
            return f"no {noun}"
        return f"{noun} {_or([v for v in values if v])}" + (
            f" or no {noun}" if "" in values else ""
        )

    return say


def _dated(verb: str) -> Callable[[tuple[str, ...]], str]:
    def one(value: str) -> str:
        if ago := AGO.fullmatch(value):
            unit = "hour" if ago[2] == "h" else "day"
            return f"in the last {ago[1]} {unit}s" if ago[1] != "1" else f"in the last {unit}"
        first, dots, last = value.partition("..")
        if not dots:
            return f"on {first}"
        if first and last:
            return f"from {first} to {last}"
        return f"since {first}" if first else f"up to {last}"

    return lambda values: f"{verb} {_or(one(value) for value in values)}"


_EXPIRY_WORDS: Final = {
    "expired": "expired",
    "soon": "expiring within 7 days",
    "later": "expiring later than in 7 days",
    "never": "never expiring",
}
WORDS: Final[Mapping[str, Callable[[tuple[str, ...]], str]]] = {
    "collection": _named("collection"),
    "user_id": _named("user"),
    "agent_id": _named("agent"),
    "app_id": _named("app"),
    "run_id": _named("run"),
    "source": _named("source"),
    "confidence": lambda values: f"{_or(values)} confidence",
    "review_status": _or,
    "expiry": lambda values: _or(_EXPIRY_WORDS[value] for value in values),
    "created": _dated("created"),
    "updated": _dated("updated"),
    "metadata": lambda values: f"metadata {_or(values)}",
    "deleted": lambda values: "deleted",
}
