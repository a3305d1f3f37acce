"""What was done to keys, people and settings, in words: "Ann made the API key ‘laptop’"."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from accounts.audit import MANY, AuditAction
from accounts.models import AuditEntry
from core.templatetags.ui import exact, number

KINDS: Final = {
    "memories": "Memories",
    "keys": "API keys",
    "apps": "Connected apps",
    "people": "People",
    "sign-ins": "Sign-ins",
    "set-up": "Set-up",
    "settings": "Providers and settings",
    "jobs": "Jobs",
    "data": "Data",
}
# Longer texts are told by their beginning: the export has all of them.
TOLD_CHARS: Final = 300


class DeedWords(NamedTuple):
    """How an action is told: its name in the filter, the word and the colour of its mark, and the
    sentence, in which {who}, {what}, {owner} and {n} are replaced."""

    name: str
    word: str
    look: str
    sentence: str


WORDS: Final = {
    AuditAction.KEY_MADE: DeedWords(
        "API key created", "Created", "add", "{who} made the API key ‘{what}’{owner}"
    ),
    AuditAction.KEY_REVOKED: DeedWords(
        "API key revoked", "Revoked", "delete", "{who} revoked the API key ‘{what}’{owner}"
    ),
    AuditAction.KEY_IMPORTED: DeedWords(
        "API key imported", "Imported", "add", "{who} imported the API key ‘{what}’{owner}"
    ),
    AuditAction.APP_CONNECTED: DeedWords(
        "App connected", "Connected", "add", "{who} gave the app ‘{what}’ access"
    ),
    AuditAction.APP_REVOKED: DeedWords(
        "App revoked", "Revoked", "delete", "{who} ended the access of the app ‘{what}’{owner}"
    ),
    AuditAction.APP_REPLAYED: DeedWords(
        "App’s refresh token used twice",
        "Ended",
        "delete",
        "A refresh token of the app ‘{what}’{owner} was used twice, so its access ended",
    ),
    AuditAction.ACCOUNT_MADE: DeedWords(
        "Account created", "Created", "add", "{who} created the owner’s account: {what}"
    ),
    AuditAction.ACCOUNT_CHANGED: DeedWords(
        "Account changed", "Changed", "update", "{who} changed the account of {what}"
    ),
    AuditAction.ACCOUNT_DEACTIVATED: DeedWords(
        "Account deactivated", "Deactivated", "delete", "{who} deactivated {what}"
    ),
    AuditAction.ACCOUNT_ACTIVATED: DeedWords(
        "Account reactivated", "Reactivated", "add", "{who} let {what} sign in again"
    ),
    AuditAction.PASSWORD_CHANGED: DeedWords(
        "Password changed", "Changed", "update", "{who} changed the password of {what}"
    ),
    AuditAction.PASSWORD_RESET: DeedWords(
        "Password reset", "Reset", "update", "{who} reset the password of {what}"
    ),
    AuditAction.PASSWORD_REFUSED: DeedWords(
        "Wrong current password", "Refused", "delete", "{who} gave a wrong current password"
    ),
    AuditAction.SESSION_OPENED: DeedWords("Signed in", "Signed in", "", "{who} signed in"),
    AuditAction.SESSION_CLOSED: DeedWords("Signed out", "Signed out", "", "{who} signed out"),
    AuditAction.SESSION_REFUSED: DeedWords(
        "Failed sign-in", "Refused", "delete", "Someone failed to sign in as {what}"
    ),
    AuditAction.SESSION_REPLAYED: DeedWords(
        "Refresh token used twice",
        "Ended",
        "delete",
        "A refresh token of {what} was used twice, so their API sessions ended",
    ),
    AuditAction.SETUP_REFUSED: DeedWords(
        "Wrong setup token", "Refused", "delete", "Someone tried a wrong setup token"
    ),
    AuditAction.SETUP_STEP: DeedWords(
        "Set-up step done", "Set up", "add", "{who} finished the set-up step ‘{what}’"
    ),
    AuditAction.SETUP_COMPLETED: DeedWords(
        "Set-up completed", "Set up", "add", "{who} completed set-up"
    ),
    AuditAction.PROVIDERS_CONFIGURED: DeedWords(
        "Providers changed", "Changed", "update", "{who} changed the model providers"
    ),
    AuditAction.REEMBEDDING_BEGUN: DeedWords(
        "Re-embedding started", "Started", "update", "{who} started re-embedding all memories"
    ),
    AuditAction.REEMBEDDING_CANCELLED: DeedWords(
        "Re-embedding cancelled", "Cancelled", "", "{who} cancelled re-embedding the memories"
    ),
    AuditAction.REEMBEDDING_DONE: DeedWords(
        "Re-embedding done", "Done", "add", "Re-embedding is done: search uses {what}"
    ),
    AuditAction.VECTORS_REMOVED: DeedWords(
        "Former vectors removed", "Removed", "delete", "{who} removed the vectors of {what}"
    ),
    AuditAction.LATE_INTERACTION_ON: DeedWords(
        "Late interaction on", "Changed", "update", "{who} turned late interaction on"
    ),
    AuditAction.LATE_INTERACTION_OFF: DeedWords(
        "Late interaction off", "Changed", "update", "{who} turned late interaction off"
    ),
    AuditAction.LATE_INTERACTION_REMOVED: DeedWords(
        "Late interaction removed", "Removed", "delete", "{who} removed late interaction’s data"
    ),
    AuditAction.INSTRUCTIONS_CHANGED: DeedWords(
        "Instructions changed", "Changed", "update", "{who} changed the instructions of ‘{what}’"
    ),
    AuditAction.TIME_ZONE_CHANGED: DeedWords(
        "Time zone changed", "Changed", "update", "{who} changed the time zone of ‘{what}’"
    ),
    AuditAction.PROJECT_RESET: DeedWords(
        "Project reset", "Reset", "delete", "{who} deleted all memories of the project ‘{what}’"
    ),
    AuditAction.MEMORIES_ERASED: DeedWords(
        "Memories erased", "Erased", "delete", "{who} erased {n} for good"
    ),
    AuditAction.DEMO_REMOVED: DeedWords(
        "Sample data removed", "Removed", "delete", "{who} removed the sample data: {n}"
    ),
    AuditAction.JOB_CANCELLED: DeedWords(
        "Job cancelled", "Cancelled", "delete", "{who} cancelled the job ‘{what}’"
    ),
    AuditAction.JOB_RETRIED: DeedWords(
        "Job retried", "Retried", "update", "{who} queued the job ‘{what}’ again"
    ),
    AuditAction.JOB_STARTED: DeedWords(
        "Job run now", "Started", "update", "{who} ran the job ‘{what}’ before its time"
    ),
    AuditAction.BULK_CHANGE_CANCELLED: DeedWords(
        "Bulk change cancelled", "Cancelled", "delete", "{who} cancelled a bulk change of {n}"
    ),
    AuditAction.ENCRYPTION_KEY_ROTATED: DeedWords(
        "Encryption key rotated",
        "Rotated",
        "update",
        "{who} encrypted the stored secrets with the newest key",
    ),
    AuditAction.DATABASE_COPIED: DeedWords(
        "Database copied", "Copied", "add", "{who} copied another database into this one"
    ),
}
# Of refusals that are counted together.
_COUNTED: Final = {
    AuditAction.SESSION_REFUSED: "{n} more failed sign-ins within an hour, counted together",
    AuditAction.PASSWORD_REFUSED: (
        "{n} more wrong current passwords within an hour, counted together"
    ),
    AuditAction.SETUP_REFUSED: "{n} more wrong setup tokens within an hour, counted together",
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


class DeedFact(NamedTuple):
    """A detail: its name and what it is; `before` is "" unless it became that."""

    name: str
    value: str
    before: str = ""
    became: bool = False


def actor_words(row: AuditEntry) -> str:
    """Who did it, as people would say."""
    name = row.account.name if row.account else row.actor_label
    return name or _NAMELESS.get(row.via, "Someone")


def describe(row: AuditEntry) -> str:
    """What was done, in one sentence without a full stop."""
    action = AuditAction(row.action)
    if row.target_kind == MANY:
        return _COUNTED[action].format(n=number(row.count))
    owner = row.details.get("owner")
    memories = row.details.get("memories", 0)
    return WORDS[action].sentence.format(
        who=actor_words(row),
        what=row.target_label,
        owner=f" for {owner}" if isinstance(owner, str) and owner != row.actor_label else "",
        n="1 memory" if memories == 1 else f"{number(memories)} memories",
    )


def list_facts(row: AuditEntry, *, may_manage: bool) -> Iterator[DeedFact]:
    """The details in words; what is nothing is left out."""
    for name, value in row.details.items():
        if name in _UNTOLD or (name in _FOR_ADMINS and not may_manage):
            continue
        if name == "scopes":
            yield DeedFact(_label(name), ", ".join(value))
        elif isinstance(value, list) and len(value) == 2:
            yield DeedFact(_label(name), _told(value[1]), _told(value[0]), became=True)
        elif value is not None:
            told = f"{value}…" if name == "prefix" else _told(value)
            yield DeedFact(_label(name), told)
        elif name == "expires_at":
            yield DeedFact(_label(name), "Never")


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
