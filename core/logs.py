"""Logs as JSON lines. Context is passed as `extra`, never in the text, and never contains a
secret."""

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
    "request",  # Django's, whose text contains the query string
}
# Characters that JSON allows unescaped but that terminals or readers interpret.
_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")


class JsonFormatter(logging.Formatter):
    """One line per record: time (UTC), level, logger, message, and `extra`."""

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
        # They occur only in strings, where an escape is equivalent.
        return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
