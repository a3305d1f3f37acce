"""Parameter names of addresses and bodies. A name that is not understood is refused.

If an unknown name were ignored, a list would show, or a deletion delete, more than requested. Each
reader declares the names that it knows and passes the others to this module.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from core.errors import InvalidInputError, NotUnderstoodError

# Names that narrow nothing: options of mem0's platform that its clients send to every server,
# tracking parameters of links, and cache busters.
HARMLESS: Final = frozenset(
    {"output_format", "version", "enable_graph", "async_mode", "rerank", "keyword_search", "model"}
)
_TAG: Final = re.compile(r"utm_\w{1,40}|fbclid|gclid|msclkid|_|_ts")
# Names that narrow a result in some dialect, or in mem0's own interfaces.
NARROWING: Final = frozenset(
    {
        *("user_id", "agent_id", "app_id", "run_id", "actor_id", "session_id", "project_id"),
        *("org_id", "memory_id", "memory_ids", "entity_id", "entity_type", "user", "agent", "app"),
        *("run", "session", "actor", "role", "owner", "project", "collection", "namespace"),
        *("filters", "where", "metadata", "categories", "category", "tags", "labels", "keywords"),
        *("source", "confidence", "review_status", "status", "memory_type", "type", "text", "ids"),
        *("top_k", "limit", "page", "page_size", "per_page", "offset", "cursor", "skip", "size"),
        *("count", "max_results", "threshold", "min_score", "score_threshold", "latest_only"),
        *("show_expired", "exclude_expired", "expired", "deleted", "expires_at", "expiry"),
        *("created_at", "updated_at", "expiration_date", "reviewed_at", "start_date", "end_date"),
        *("date", "date_range", "since", "until", "before", "after", "from", "to"),
    }
)
_CLOSE: Final = 0.75
_SLIP: Final = 0.85
_SHORTEST: Final = 4
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_harmless(name: str) -> bool:
    """Whether any address may have this name, because it can never narrow anything."""
    return name in HARMLESS or _TAG.fullmatch(name) is not None


def find_similar(name: str, known_names: Iterable[str], cutoff: float = _CLOSE) -> str:
    """The known name that `name` resembles (userId, user-id, USER_ID, users_id, usr_id); "" for
    none."""
    plain = {_plain(one): one for one in known_names}
    plain_name = _plain(name)
    if plain_name in plain:
        return plain[plain_name]
    # Words of three letters are too similar to each other.
    if len(name) < _SHORTEST:
        return ""
    longer = [one for one in plain if len(one) >= _SHORTEST]
    close = get_close_matches(plain_name, longer, n=1, cutoff=cutoff)
    return plain[close[0]] if close else ""


def _plain(name: str) -> str:
    """The name without case, dashes and plural endings."""
    words = re.split(r"[^a-z0-9]+", _CAMEL.sub("_", name).lower())
    return "".join(word.removesuffix("s") for word in words)


def may_narrow(name: str, known_names: Collection[str]) -> bool:
    """Whether an unknown name may be meant as a filter."""
    return not is_harmless(name) and bool(
        find_similar(name, NARROWING) or find_similar(name, known_names)
    )


def is_misspelt(name: str, known_names: Collection[str]) -> bool:
    """Whether an unknown name is a misspelling of a known one."""
    return not is_harmless(name) and bool(find_similar(name, known_names, _SLIP))


def check_page(parameters: Iterable[str], known_names: Collection[str]) -> None:
    """NotUnderstoodError if the address of a page has a parameter that the page does not know."""
    unknown = {name for name in parameters if name not in known_names and not is_harmless(name)}
    refuse(unknown, known_names, "This page")


def page_number(text: str, *, most: int = 999_999_999) -> int:
    """The page number in an address, from 1 to `most`; InvalidInputError for anything else."""
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    if not (is_number and 1 <= int(text) <= most):
        upto = f"from 1 to {most:,}" if most < 999_999_999 else "of 1 or more"
        raise InvalidInputError(f"Invalid filter: page must be a whole number {upto}.")
    return int(text)


def check_once(lists: Mapping[str, Sequence[str]], once: Iterable[str]) -> None:
    """NotUnderstoodError if a name with a single value occurs with several."""
    for name in once:
        if len(set(lists.get(name, ()))) > 1:
            raise NotUnderstoodError(f"This page takes one {name}, and the address has several.")


def refuse(unknown: Collection[str], known_names: Collection[str], where: str) -> None:
    """NotUnderstoodError with the unknown and the known names, if there are unknown ones.

    `where` begins the sentence: "DELETE /memories", "This page".
    """
    if not unknown:
        return
    names = ", ".join(f"“{name[:40]}”" for name in sorted(unknown)[:5])
    suggestion = find_similar(min(unknown), known_names)
    hint = f" Did you mean {suggestion}?" if suggestion else ""
    offered = (
        f"It understands {', '.join(sorted(known_names))}." if known_names else "It takes none."
    )
    raise NotUnderstoodError(f"{where} does not understand {names}.{hint} {offered}")
