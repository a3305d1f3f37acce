"""Logs as JSON lines; context travels as `extra`, never as text, and never holds a secret."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

import orjson

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "request",  # Django's, whose text holds the query string
}
# What JSON allows as it is, but a terminal takes for commands and some readers for line ends.
_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")


class JsonFormatter(logging.Formatter):
    """One line per record: time (UTC), level, logger, message, and whatever came as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            text = orjson.dumps(line, default=str).decode()
        except TypeError:  # such as a number beyond 64 bits or half of a character
            text = json.dumps(line, default=str)
        # They can stand in strings alone, where an escape says the same.
        return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
