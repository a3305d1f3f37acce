"""What changed between two texts, word by word, for people to read."""

import re
from difflib import SequenceMatcher
from typing import Final, Literal

Part = tuple[Literal["same", "ins", "del"], str]

# Scripts that put no space between words are compared character by character, Thai to Hangul.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
)
_WORD: Final = re.compile(rf"\s+|\d+(?:[.,:]\d+)*|[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")
# Comparing takes the square of this in the worst case: 0.3 s.
COMPARED_WORDS: Final = 2_000


def difference(old: str, new: str) -> list[Part]:
    """The parts of both texts in reading order: what stayed, what came, what went.

    What stayed and what came is `new`, to the letter; what stayed and what went is `old`. Where
    more than COMPARED_WORDS differ between the common beginning and end, all of that is replaced.
    """
    before, after = _WORD.findall(old), _WORD.findall(new)
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    removed, inserted = before[head : len(before) - tail], after[head : len(after) - tail]
    parts: list[Part] = [("same", "".join(before[:head]))]
    if max(len(removed), len(inserted)) > COMPARED_WORDS:
        parts += [("del", "".join(removed)), ("ins", "".join(inserted))]
    else:
        parts += _compared(removed, inserted)
    parts.append(("same", "".join(before[len(before) - tail :])))
    return _joined(parts)


def _common(one: list[str], other: list[str]) -> int:
    """How many words both begin with."""
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return same


def _compared(removed: list[str], inserted: list[str]) -> list[Part]:
    parts: list[Part] = []
    matcher = SequenceMatcher(None, removed, inserted, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        same = "".join(removed[a:b])
        if kind == "equal" and not (same.isspace() and parts):
            parts.append(("same", same))
        elif kind == "equal":
            # A lone space between two replaced words reads better as part of both.
            parts += [("del", same), ("ins", same)]
        else:
            parts += [("del", same), ("ins", "".join(inserted[c:d]))]
    return parts


def _joined(parts: list[Part]) -> list[Part]:
    """Runs of what went and what came, each as one part, what went first."""
    joined: list[Part] = []
    removed = inserted = ""
    for kind, text in [*parts, ("same", "")]:
        if kind == "del":
            removed += text
        elif kind == "ins":
            inserted += text
        elif text or not joined or (removed or inserted):
            joined += [part for part in _run(removed, inserted) if part[1]]
            removed = inserted = ""
            if text:
                joined.append(("same", text))
    return joined


def _run(removed: str, inserted: str) -> list[Part]:
    """A replaced run; white space that both end with stayed."""
    tail = len(inserted) - len(inserted.rstrip())
    if tail and removed.endswith(inserted[-tail:]) and removed.strip() and inserted.strip():
        return [("del", removed[:-tail]), ("ins", inserted[:-tail]), ("same", inserted[-tail:])]
    return [("del", removed), ("ins", inserted)]
