"""Names that clients choose for themselves, as pages, logs and records may show them."""

import re
import unicodedata
from typing import Final

LONGEST: Final = 100
# Between < and > nothing of a name is for people; an end that never comes takes the rest along.
_MARKUP: Final = re.compile(r"<[^>]*>?")
# Control and format characters, which turn the direction of text or hide in it (categories Cc and
# Cf), surrogates, private ones and those that are none yet.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def clean_label(name: str) -> str:
    """The name without markup, control and direction characters, in one line of at most LONGEST
    characters; "" where nothing is left."""
    plain = _MARKUP.sub(" ", name[: 10 * LONGEST]).replace(">", " ")
    seen = (" " if sign.isspace() else sign for sign in plain)
    shown = "".join(sign for sign in seen if unicodedata.category(sign) not in _UNSEEN)
    return " ".join(shown.split())[:LONGEST].strip()
