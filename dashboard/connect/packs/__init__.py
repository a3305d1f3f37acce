"""Prompts that teach agents to use memory, one text file each."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent
INSTRUCTIONS: Final = "memory-instructions"


@dataclass(frozen=True, slots=True)
class Pack:
    """A prompt to copy, with what it is for."""

    id: str
    title: str
    about: str

    @property
    def text(self) -> str:
        return _read(self.id)


PACKS: Final = (
    Pack(
        INSTRUCTIONS,
        "Memory instructions",
        "Recall first, save lasting facts, never store secrets.",
    ),
    Pack("session-summary", "Session summary", "A prompt for the end of a session."),
    Pack("research-synthesis", "Research synthesis", "Turns findings into facts with sources."),
    Pack("meeting-synthesis", "Meeting synthesis", "Decisions, owners and dates."),
)


def instructions() -> str:
    """The block that teaches an agent to use memory at all."""
    return _read(INSTRUCTIONS)


@cache
def _read(name: str) -> str:
    return (_FOLDER / f"{name}.md").read_text(encoding="utf-8").strip()
