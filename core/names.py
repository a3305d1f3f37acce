"""Parameter names of addresses and bodies. A name that is not understood is refused.

If an unknown name were ignored, a list would show, and a deletion would delete, more than was asked
for. Each reader says which names it knows, and passes the others to this module.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from core.errors import InvalidInputError, NotUnderstoodError

# Names that narrow nothing: options of mem0's platform that its clients send to every server, the
# tags of links in newsletters, and what keeps a cache from answering.
HARMLESS: Final = frozenset(
    {"output_format", "version", "enable_graph", "async_mode", "rerank", "keyword_search", "model"}
)
_TAG: Final = re.compile(r"utm_\w{1,40}|fbclid|gclid|msclkid|_|_ts")
# What narrows in one dialect or another, or in mem0's own interfaces.
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


def find_similar(name: str, known: Iterable[str], cutoff: float = _CLOSE) -> str:
    """The known name that `name` is written like (userId, user-id, USER_ID, users_id, usr_id);
    "" for none."""
    plain = {_plain(one): one for one in known}
    wanted = _plain(name)
    if wanted in plain:
        return plain[wanted]
    # Words of three letters are too similar to each other.
    if len(name) < _SHORTEST:
        return ""
    longer = [one for one in plain if len(one) >= _SHORTEST]
    close = get_close_matches(wanted, longer, n=1, cutoff=cutoff)
    return plain[close[0]] if close else ""


def _plain(name: str) -> str:
    """Without case, dashes and the marks of a plural."""
    words = re.split(r"[^a-z0-9]+", _CAMEL.sub("_", name).lower())
    return "".join(word.removesuffix("s") for word in words)


def may_narrow(name: str, known: Collection[str]) -> bool:
    """Whether a name that is none of `known` may mean to leave something out."""
    return not is_harmless(name) and bool(
        find_similar(name, NARROWING) or find_similar(name, known)
    )


def is_misspelt(name: str, known: Collection[str]) -> bool:
    """Whether a name that is none of `known` is one of them in another spelling."""
    return not is_harmless(name) and bool(find_similar(name, known, _SLIP))


def check_page(said: Iterable[str], known: Collection[str]) -> None:
    """NotUnderstoodError where the address of a page says what the page has no filter for."""
    unknown = {name for name in said if name not in known and not is_harmless(name)}
    refuse(unknown, known, "This page")


def page_number(written: str, *, most: int = 999_999_999) -> int:
    """The number of a page as an address has it, from 1 to `most`. InvalidInputError for anything
    else: another page than the one asked for is no answer."""
    is_number = written.isascii() and written.isdigit() and len(written) < 10
    if not (is_number and 1 <= int(written) <= most):
        upto = f"from 1 to {most:,}" if most < 999_999_999 else "of 1 or more"
        raise InvalidInputError(f"Invalid filter: page must be a whole number {upto}.")
    return int(written)


def check_once(lists: Mapping[str, Sequence[str]], once: Iterable[str]) -> None:
    """NotUnderstoodError where a name that has one value stands there with several."""
    for name in once:
        if len(set(lists.get(name, ()))) > 1:
            raise NotUnderstoodError(f"This page takes one {name}, and the address has several.")


def refuse(unknown: Collection[str], known: Collection[str], where: str) -> None:
    """NotUnderstoodError, which names them and what is known, unless there are none.

    `where` begins the sentence: "DELETE /memories", "This page".
    """
    if not unknown:
        return
    names = ", ".join(f"“{name[:40]}”" for name in sorted(unknown)[:5])
    meant = find_similar(min(unknown), known)
    hint = f" Did you mean {meant}?" if meant else ""
    offered = f"It understands {', '.join(sorted(known))}." if known else "It takes none."
    raise NotUnderstoodError(f"{where} does not understand {names}.{hint} {offered}")
