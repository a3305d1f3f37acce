"""The one writer of CSV. Its cells stay text in every spreadsheet.

A cell that begins with a sign of a formula would be calculated, and may reach out into the network
with what stands beside it. Spreadsheets split the lines of a file where their own language does:
with a semicolon in much of Europe, or with tabs. Then the quotes of a cell with commas count for
nothing, and what follows a semicolon, a tab or a line break inside it begins a cell of its own.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import orjson

from core.rest.json import dumps

MEDIA_TYPE: Final = "text/csv; charset=utf-8"
# The wide and small forms are what Japanese and Chinese spreadsheets take for the usual ones.
_SIGNS: Final = r"=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
# What a spreadsheet may pass over before a formula: white space, control and format characters,
# and letters that show nothing.
_BLANK: Final = (
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
)
_ENDS: Final = r";\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029"
_STARTS: Final = re.compile(rf"[\t\r\n]|[{_BLANK}]*+[{_SIGNS}]")
# What may end a cell: looked for first, for nearly no text holds any of it.
_END: Final = re.compile(f"[{_ENDS}]")
_ANY: Final = re.compile(f"[{_ENDS},]")
# What a formula may stand behind, quotes included. Each run of it is read once, however long.
_RUN: Final = re.compile(rf'(?<![;{_BLANK}"])[;{_BLANK}"]++(?=[{_SIGNS}])')
# A comma ends a cell only where quotes count: behind it is looked for what cannot be prose.
_COMMA: Final = re.compile(rf",[{_BLANK}]*+(?=[=\uff1d\ufe66])")


def cell(value: Any) -> str:
    """A value as a cell; an apostrophe stands before what would be taken for a formula, wherever in
    the text it is. Numbers and times are as they are."""
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
    """The run, with an apostrophe before the formula that would begin a cell behind it."""
    # Before the first tab of a text the apostrophe of the whole cell stands already.
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
