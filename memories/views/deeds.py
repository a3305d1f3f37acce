"""What was done to keys, people and settings, in words: "Ann made the API key ‘laptop’"."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from accounts.audit import MANY, Action
from accounts.models import AuditEntry
from core.templatetags.ui import exact, number

KINDS: Final = {
    "memories": "Memories",
    "keys": "API keys",
    "people": "People",
    "sign-ins": "Sign-ins",
    "set-up": "Set-up",
    "settings": "Providers and settings",
    "jobs": "Jobs",
    "data": "Data",
}
# Longer texts are told by their beginning: the export has all of them.
TOLD_CHARS: Final = 300


class Words(NamedTuple):
    """How an action is told: its name in the filter, the word and the colour of its mark, and the
    sentence, in which {who}, {what}, {owner} and {n} are replaced."""

    name: str
    word: str
    look: str
    sentence: str


WORDS: Final = {
    Action.KEY_MADE: Words(
        "API key created", "Created", "add", "{who} made the API key ‘{what}’{owner}"
    ),
    Action.KEY_REVOKED: Words(
        "API key revoked", "Revoked", "delete", "{who} revoked the API key ‘{what}’{owner}"
    ),
    Action.KEY_IMPORTED: Words(
        "API key imported", "Imported", "add", "{who} imported the API key ‘{what}’{owner}"
    ),
    Action.ACCOUNT_MADE: Words(
        "Account created", "Created", "add", "{who} created the owner’s account: {what}"
    ),
    Action.ACCOUNT_CHANGED: Words(
        "Account changed", "Changed", "update", "{who} changed the account of {what}"
    ),
    Action.ACCOUNT_DEACTIVATED: Words(
        "Account deactivated", "Deactivated", "delete", "{who} deactivated {what}"
    ),
    Action.ACCOUNT_ACTIVATED: Words(
        "Account reactivated", "Reactivated", "add", "{who} let {what} sign in again"
    ),
    Action.PASSWORD_CHANGED: Words(
        "Password changed", "Changed", "update", "{who} changed the password of {what}"
    ),
    Action.PASSWORD_RESET: Words(
        "Password reset", "Reset", "update", "{who} reset the password of {what}"
    ),
    Action.PASSWORD_REFUSED: Words(
        "Wrong current password", "Refused", "delete", "{who} gave a wrong current password"
    ),
    Action.SESSION_OPENED: Words("Signed in", "Signed in", "", "{who} signed in"),
    Action.SESSION_CLOSED: Words("Signed out", "Signed out", "", "{who} signed out"),
    Action.SESSION_REFUSED: Words(
        "Failed sign-in", "Refused", "delete", "Someone failed to sign in as {what}"
    ),
    Action.SESSION_REPLAYED: Words(
        "Refresh token used twice",
        "Ended",
        "delete",
        "A refresh token of {what} was used twice, so their API sessions ended",
    ),
    Action.SETUP_REFUSED: Words(
        "Wrong setup token", "Refused", "delete", "Someone tried a wrong setup token"
    ),
    Action.SETUP_STEP: Words(
        "Set-up step done", "Set up", "add", "{who} finished the set-up step ‘{what}’"
    ),
    Action.SETUP_COMPLETED: Words("Set-up completed", "Set up", "add", "{who} completed set-up"),
    Action.PROVIDERS_CONFIGURED: Words(
        "Providers changed", "Changed", "update", "{who} changed the model providers"
    ),
    Action.REEMBEDDING_BEGUN: Words(
        "Re-embedding started", "Started", "update", "{who} started re-embedding all memories"
    ),
    Action.REEMBEDDING_CANCELLED: Words(
        "Re-embedding cancelled", "Cancelled", "", "{who} cancelled re-embedding the memories"
    ),
    Action.REEMBEDDING_DONE: Words(
        "Re-embedding done", "Done", "add", "Re-embedding is done: search uses {what}"
    ),
    Action.VECTORS_REMOVED: Words(
        "Former vectors removed", "Removed", "delete", "{who} removed the vectors of {what}"
    ),
    Action.LATE_INTERACTION_ON: Words(
        "Late interaction on", "Changed", "update", "{who} turned late interaction on"
    ),
    Action.LATE_INTERACTION_OFF: Words(
        "Late interaction off", "Changed", "update", "{who} turned late interaction off"
    ),
    Action.LATE_INTERACTION_REMOVED: Words(
        "Late interaction removed", "Removed", "delete", "{who} removed late interaction’s data"
    ),
    Action.INSTRUCTIONS_CHANGED: Words(
        "Instructions changed", "Changed", "update", "{who} changed the instructions of ‘{what}’"
    ),
    Action.TIME_ZONE_CHANGED: Words(
        "Time zone changed", "Changed", "update", "{who} changed the time zone of ‘{what}’"
    ),
    Action.PROJECT_RESET: Words(
        "Project reset", "Reset", "delete", "{who} deleted all memories of the project ‘{what}’"
    ),
    Action.MEMORIES_ERASED: Words(
        "Memories erased", "Erased", "delete", "{who} erased {n} for good"
    ),
    Action.DEMO_REMOVED: Words(
        "Sample data removed", "Removed", "delete", "{who} removed the sample data: {n}"
    ),
    Action.JOB_CANCELLED: Words(
        "Job cancelled", "Cancelled", "delete", "{who} cancelled the job ‘{what}’"
    ),
    Action.JOB_RETRIED: Words(
        "Job retried", "Retried", "update", "{who} queued the job ‘{what}’ again"
    ),
    Action.JOB_STARTED: Words(
        "Job run now", "Started", "update", "{who} ran the job ‘{what}’ before its time"
    ),
    Action.BULK_CHANGE_CANCELLED: Words(
        "Bulk change cancelled", "Cancelled", "delete", "{who} cancelled a bulk change of {n}"
    ),
    Action.ENCRYPTION_KEY_ROTATED: Words(
        "Encryption key rotated",
        "Rotated",
        "update",
        "{who} encrypted the stored secrets with the newest key",
    ),
    Action.DATABASE_COPIED: Words(
        "Database copied", "Copied", "add", "{who} copied another database into this one"
    ),
}
# Of refusals that are counted together.
_COUNTED: Final = {
    Action.SESSION_REFUSED: "{n} more failed sign-ins within an hour, counted together",
    Action.PASSWORD_REFUSED: "{n} more wrong current passwords within an hour, counted together",
    Action.SETUP_REFUSED: "{n} more wrong setup tokens within an hour, counted together",
}
# Who acts without an account.
_NAMELESS: Final = {
    "internal": "An operator at the command line",
    "admin_api_key": "The admin key",
    "auth_disabled": "Someone, without signing in,",
}
_SECTIONS: Final = {
    "llm": "Language model",
    "fallback_llm": "Fallback language model",
    "embedder": "Embedding model",
}
_FIELDS: Final = {
    "about": "About",
    "api_key": "API key",
    "embedding_dims": "dimensions",
    "email": "E-mail address",
    "entity_limit": "Limited to",
    "expires_at": "Expires",
    "prefix": "Begins with",
    "scopes": "Permissions",
    "only": "Limited to",
    "unchanged": "Encrypted with it before",
    "changed": "Encrypted anew",
}
_ADDRESSES: Final = ("base_url", "endpoint")
# Said in the sentence, or of no use to people.
_UNTOLD: Final = frozenset({"owner", "memories"})
# First characters of keys are for administrators.
_FOR_ADMINS: Final = frozenset({"prefix"})


class Fact(NamedTuple):
    """A detail: its name and what it is; `before` is "" unless it became that."""

    name: str
    value: str
    before: str = ""
    became: bool = False


def who(row: AuditEntry) -> str:
    """Who did it, as people would say."""
    name = row.account.name if row.account else row.actor_label
    return name or _NAMELESS.get(row.via, "Someone")


def sentence(row: AuditEntry) -> str:
    """What was done, in one sentence without a full stop."""
    action = Action(row.action)
    if row.target_kind == MANY:
        return _COUNTED[action].format(n=number(row.count))
    owner = row.details.get("owner")
    memories = row.details.get("memories", 0)
    return WORDS[action].sentence.format(
        who=who(row),
        what=row.target_label,
        owner=f" for {owner}" if isinstance(owner, str) and owner != row.actor_label else "",
        n="1 memory" if memories == 1 else f"{number(memories)} memories",
    )


def facts(row: AuditEntry, *, may_manage: bool) -> Iterator[Fact]:
    """The details in words; what is nothing is left out."""
    for name, value in row.details.items():
        if name in _UNTOLD or (name in _FOR_ADMINS and not may_manage):
            continue
        if name == "scopes":
            yield Fact(_label(name), ", ".join(value))
        elif isinstance(value, list) and len(value) == 2:
            yield Fact(_label(name), _told(value[1]), _told(value[0]), became=True)
        elif value is not None:
            told = f"{value}…" if name == "prefix" else _told(value)
            yield Fact(_label(name), told)
        elif name == "expires_at":
            yield Fact(_label(name), "Never")


def _label(name: str) -> str:
    section, _, key = name.rpartition(".")
    words = _FIELDS.get(key, key.replace("_", " "))
    if not section:
        return words[:1].upper() + words[1:]
    if key == "model":
        return _SECTIONS[section]
    return f"{_SECTIONS[section]}: {'address' if key.endswith(_ADDRESSES) else words}"


def _told(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, Mapping):
        return "; ".join(f"{field} {', '.join(ids)}" for field, ids in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return number(value)
    text = _instant(str(value))
    return f"{text[:TOLD_CHARS]}…" if len(text) > TOLD_CHARS else text


def _instant(text: str) -> str:
    try:
        return exact(datetime.fromisoformat(text)) if "T" in text[:11] else text
    except ValueError:
        return text
