"""CSV whose cells stay text, wherever a spreadsheet splits its lines."""

import csv
import io

import pytest

from core.pages.spreadsheets import cell, lines

pytestmark = pytest.mark.one_form

SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
BLANKS = ("", " ", "  ", "\u00a0", "\ufeff", "\u200b", "\u2003", "\u3000", "\u2060", "\x00", "\x1f")
HOSTILE = [
    *(f"{blank}{sign}cmd()" for blank in BLANKS for sign in SIGNS),
    *(f"hello;{blank}{sign}cmd()" for blank in BLANKS for sign in SIGNS),
    *(f"hello{end}{blank}=cmd()" for end in "\t\n\r\v\u2028" for blank in BLANKS),
    *('hello;"=cmd()"', 'hello;""=cmd()', ";;=1", "a;b;=1;c", "a;=1;=2", "\r\n=1", ",=1", "a, =1"),
    *("\t=1", "\r=1", "\n=1", '"=1', 'a";=1', "=1;=1"),
]


def parsed(text: str, delimiter: str, quotes: bool) -> list[str]:
    """The cells that a spreadsheet would make of the file."""
    if quotes:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return [value for row in rows for value in row]
    return [part.lstrip('"') for line in text.splitlines() for part in line.split(delimiter)]


def is_formula(value: str) -> bool:
    return value.lstrip("".join(BLANKS) + "\t\r\n\v\u2028").startswith(SIGNS)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_no_text_becomes_a_formula(delimiter: str) -> None:
    for text in HOSTILE:
        whole = b"".join(lines(["id", "memory", "last"], [[["1", text, "end"]]])).decode()
        assert not any(is_formula(value) for value in parsed(whole, delimiter, quotes=True)), whole
        if delimiter == ";":
            assert not any(is_formula(value) for value in parsed(whole, ";", quotes=False)), whole
        # Read as it was written, it holds the text, and apostrophes.
        [_, row] = csv.reader(io.StringIO(whole, newline=""))
        assert row[1].replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize(
    "text",
    [
        "tea",
        "a, -5 degrees",
        "well-known; fine",
        "hi, @bob",
        "1 - 2 = -1",
        "a;b",
        "line\nline",
        "",
        "é=1",
    ],
)
def test_prose_is_left_as_it_is(text: str) -> None:
    assert cell(text) == text


def test_numbers_times_and_json_are_told_as_they_are() -> None:
    assert [cell(value) for value in (None, -5, 0.5, True)] == ["", "-5", "0.5", "true"]
    assert cell({"a": ["=x", -1]}) == '{"a":["=x",-1]}'
    assert cell({"a": "x;=cmd()"}) == '{"a":"x;\'=cmd()"}'


def test_a_long_text_of_blanks_takes_no_longer_for_it() -> None:
    """In one pass: a pattern that looks at each start anew would take minutes here."""
    for run in (";", "\n", " ", '"', ", "):
        assert cell(run * 500_000 + "x").endswith("x")
