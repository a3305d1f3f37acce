"""What bulk actions are called on pages."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ActionWords:
    """Of one action: its name, what the button says, what it came to, what it means, its icon.

    `button` and `done` hold {n}, a count with its noun, and {value}. `asks` names what has to be
    chosen first.
    """

    name: str
    button: str
    done: str
    means: str
    icon: str
    is_danger: bool = False
    asks: str = ""


ACTIONS: Final = {
    "approve": ActionWords(
        name="Approve",
        button="Approve {n}",
        done="{n} approved",
        means="They count as right, in your name and as of now.",
        icon="check",
    ),
    "reject": ActionWords(
        name="Reject",
        button="Reject {n}",
        done="{n} rejected",
        means="Agents no longer find them, unless they ask for what is rejected. None is deleted.",
        icon="x",
    ),
    "stale": ActionWords(
        name="Mark as stale",
        button="Mark {n} as stale",
        done="{n} marked as stale",
        means="They were right once. Agents still find them, with this status.",
        icon="hourglass",
    ),
    "unreview": ActionWords(
        name="Mark as not reviewed",
        button="Mark {n} as not reviewed",
        done="{n} marked as not reviewed",
        means="They wait for a review again; who reviewed them is taken off.",
        icon="arrow-back-up",
    ),
    "expire": ActionWords(
        name="Set an expiry",
        button="Set the expiry of {n}",
        done="The expiry of {n} set to {value}",
        means="From then on agents find them only when they ask for what has expired.",
        icon="calendar",
        asks="expiry",
    ),
    "unexpire": ActionWords(
        name="Remove the expiry",
        button="Remove the expiry of {n}",
        done="The expiry of {n} removed",
        means="They hold until somebody changes that.",
        icon="calendar-off",
    ),
    "confidence": ActionWords(
        name="Set the confidence",
        button="Set the confidence of {n}",
        done="The confidence of {n} set to {value}",
        means="It says how sure one can be of them. Clients can filter by it.",
        icon="target",
        asks="confidence",
    ),
    "delete": ActionWords(
        name="Delete",
        button="Delete {n}",
        done="{n} deleted",
        means="No client finds them any more, from this moment on.",
        icon="trash",
        is_danger=True,
    ),
    "restore": ActionWords(
        name="Restore",
        button="Restore {n}",
        done="{n} restored",
        means="They are back as they were when they were deleted, and clients find them again.",
        icon="arrow-back-up",
    ),
    "erase": ActionWords(
        name="Erase",
        button="Erase {n} for ever",
        done="{n} erased",
        means=(
            "Text, vector, kept inputs and the texts in the history are removed at once. Who did "
            "what and when stays in the history."
        ),
        icon="trash",
        is_danger=True,
    ),
}


def count_words(number: int) -> str:
    """ "1 memory", "1,284 memories"."""
    return f"{number:,} {'memory' if number == 1 else 'memories'}"


def was_or_were(number: int) -> str:
    """ "was" of one, "were" of several."""
    return "was" if number == 1 else "were"
