"""Texts with the words marked that answer a search, and which word answers which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from memories.browse.selection import Selection
from memories.models import Memory
from memories.search.highlights import Mark, mark_words

Marks = Mapping[UUID, Sequence[Mark]]


@dataclass(frozen=True, slots=True)
class AnsweredWord:
    """A word of the search, and the words of a text that answer it; none where it stands there
    itself and alone."""

    asked: str
    by: tuple[str, ...]


def marks_of(selection: Selection, memories: Sequence[Memory]) -> Marks:
    """The marks of memories that a search by meaning has found; of any other list there are none.
    What is deleted is found by words alone."""
    if not selection.by_meaning or selection.deleted:
        return {}
    return mark_words(selection.q, memories)


def html(text: str, marks: Sequence[Mark], *, at_most: int = 0) -> SafeString:
    """The text with its marks, cut to `at_most` characters where that is not 0; a word that is cut
    has no mark."""
    last = at_most - 1 if 0 < at_most < len(text) else len(text)
    pieces, position = [], 0
    for mark in marks:
        if mark.end > last:
            break
        pieces.append(format_html("{}", text[position : mark.start]))
        pieces.append(
            format_html(
                '<mark title="answers {}">{}</mark>',
                " and ".join(f"“{word}”" for word in mark.answers),
                text[mark.start : mark.end],
            )
        )
        position = mark.end
    pieces.append(format_html("{}", text[position:last] + ("…" if last < len(text) else "")))
    return format_html_join("", "{}", ((piece,) for piece in pieces))


def legend(selection: Selection, text: str, marks: Sequence[Mark]) -> list[AnsweredWord]:
    """What answers which word of the search, in the order of the search."""
    answers: dict[str, dict[str, str]] = {}
    for mark in marks:
        word = text[mark.start : mark.end]
        for query_word in mark.answers:
            answers.setdefault(query_word, {}).setdefault(word.casefold(), word)
    entries = []
    for query_word in sorted(answers, key=selection.q.find):
        words = answers[query_word]
        entries.append(
            AnsweredWord(
                query_word, () if [*words] == [query_word.casefold()] else (*words.values(),)
            )
        )
    return entries
