"""The CSV writer. Its cells stay text in every spreadsheet.

A cell that begins like a formula would be calculated, and could send its neighbours' content over
the network. Spreadsheets split lines at the separator of their locale: a semicolon in much of
Europe, or tabs. The quotes around a cell with commas then have no effect, and a semicolon, tab or
line break inside it starts a new cell.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import orjson

from core.rest.json import dumps

MEDIA_TYPE: Final = "text/csv; charset=utf-8"
# Japanese and Chinese spreadsheets treat the full-width and small forms like the usual signs.
_SIGNS: Final = r"=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
# Characters that a spreadsheet may skip before a formula: white space, control and format
# characters, and invisible letters.
_BLANK: Final = (
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
)
_ENDS: Final = r";\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029"
_STARTS: Final = re.compile(rf"[\t\r\n]|[{_BLANK}]*+[{_SIGNS}]")
# What may end a cell. Checked first, because few texts contain any.
_END: Final = re.compile(f"[{_ENDS}]")
_ANY: Final = re.compile(f"[{_ENDS},]")
# What may precede a formula, quotes included. Each run is scanned once, however long.
_RUN: Final = re.compile(rf'(?<![;{_BLANK}"])[;{_BLANK}"]++(?=[{_SIGNS}])')
# A comma ends a cell only if quotes have no effect, so only signs that cannot be prose count after
# it.
_COMMA: Final = re.compile(rf",[{_BLANK}]*+(?=[=\uff1d\ufe66])")


def cell(value: Any) -> str:
    """A value as a cell, with an apostrophe before anything that could be read as a formula,
    anywhere in the text. Numbers and times stay as they are."""
    if value is None:
        return ""
    if isinstance(value, dict | list):
        value = dumps(value, orjson.OPT_UTC_Z).decode()
    elif not isinstance(value, str):
        return dumps(value, orjson.OPT_UTC_Z).decode().strip('"')
    if _ANY.search(value):
        value = _RUN.sub(_marked, value)
        value = _COMMA.sub(r"\g<0>'", value)
    return f"'{value}" if _STARTS.match(value) else value


def _marked(run: re.Match[str]) -> str:
    """The run, with an apostrophe if a formula would start a cell after it."""
    # A leading tab already gets the apostrophe of the whole cell.
    ends = run[0] if run.start() else run[0].replace("\t", " ")
    return f"{run[0]}'" if _END.search(ends) else run[0]


def lines(names: Sequence[str], batches: Iterable[Iterable[Sequence[Any]]]) -> Iterator[bytes]:
    """A CSV in pieces of UTF-8: the names, then the rows, a batch a piece."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    for batch in batches:
        writer.writerows([cell(value) for value in row] for row in batch)
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()
    if out.getvalue():
        yield out.getvalue().encode()
