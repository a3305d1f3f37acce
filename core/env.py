"""Reads settings from environment variables, loudly: a wrong value names its variable."""

import os
import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

# Every name that was asked for. Tests and proofs leave them out of what they inherit.
asked: set[str] = set()

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}
# An IPv6 address in brackets is no list.
_ADDRESS = re.compile(r"\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]")


class ConfigurationError(Exception):
    """A setting that the service cannot start with; the text is one sentence for the operator."""


def text(name: str, default: str = "") -> str:
    """The value of `name`, or of the file that `NAME_FILE` points to (Docker secrets)."""
    asked.add(name)
    value, path = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if value and path:
        raise ConfigurationError(f"{name} and {name}_FILE are both set; keep one of them.")
    if path:
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{name}_FILE: {path} cannot be read ({error}).") from error
        if not value:
            raise ConfigurationError(f"{name}_FILE: {path} is empty.")
    return default if value is None or value == "" else value.strip()


def text_of_either(name: str, other: str) -> str:
    """The value of a setting with two names; if both are set, they must agree."""
    value, alias = text(name), text(other)
    if value and alias and value != alias:
        raise ConfigurationError(f"{name} and {other} are both set and differ; keep one of them.")
    return value or alias


def flag(name: str, *, default: bool = False) -> bool:
    """A yes/no setting: 1, true, yes, on, or 0, false, no, off."""
    value = text(name, "on" if default else "off").lower()
    if value not in _TRUE | _FALSE:
        raise ConfigurationError(f"{name} must be true or false, not {value!r}.")
    return value in _TRUE


def integer(name: str, default: int, *, low: int, high: int) -> int:
    """A whole number within `low`..`high`."""
    value = text(name, str(default))
    try:
        number = int(value)
    except ValueError as error:
        raise ConfigurationError(f"{name} must be a whole number, not {value!r}.") from error
    if not low <= number <= high:
        raise ConfigurationError(f"{name} must be between {low} and {high}, not {number}.")
    return number


def list_of(name: str) -> list[str]:
    """A list, as `parse_list` understands it."""
    return parse_list(name, text(name))


def parse_list(name: str, value: str) -> list[str]:
    """The words of a list: with commas, semicolons or white space between them, or as JSON; with
    or without quotes. ConfigurationError for half a bracket or quote, or anything in braces."""
    inside = value.strip()
    if re.fullmatch(r"\[.*\]", inside, re.DOTALL) and not _ADDRESS.match(inside):
        inside = inside[1:-1]
    found = [word for word in re.split(r"[,;\s]+", inside) if word]
    words = [w[1:-1] if len(w) > 1 and w[0] == w[-1] and w[0] in "\"'" else w for w in found]
    if any(not word or re.search(r"[\"'{}“”‘’„«»]", word) for word in words):
        raise ConfigurationError(f"{name} must be a list with commas between its words.")
    return words


def take_out(*names: str) -> dict[str, str]:
    """Takes these variables out of the environment; returns the values of those that were set."""
    found = {name: text(name) for name in names}
    for name in names:
        os.environ.pop(name, None)
    return {name: value for name, value in found.items() if value}


def origin(name: str) -> str:
    """The origin (scheme, host, port) of the http address in `name`, as browsers send it."""
    value = text(name)
    return _origin(name, value) if value else ""


def origins(name: str) -> list[str]:
    """The origins of a list of http addresses."""
    return [_origin(name, word) for word in list_of(name)]


def _origin(name: str, value: str) -> str:
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in {"http", "https"} or not host or parts.username is not None:
        raise ConfigurationError(f"{name} must look like https://dashboard.example.org.")
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in {None, usual} else f":{port}")


def load_secret(name: str, path: Path, *, make: str, keep: bool = True) -> str:
    """The secret `name` from the environment, or the one kept in `path` (mode 0600).

    `make` is the value that is kept when there is neither; without `keep` it is given back alone.
    Two processes that start at once agree on one value: the file is linked into place, and the
    first link wins.
    """
    value = text(name)
    if value:
        return value
    try:
        if not path.exists():
            if not keep:
                return make
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(make + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        value = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        if path.exists():
            raise ConfigurationError(
                f"{name}: the file {path} cannot be read by user id {os.geteuid()} "
                f"({error.strerror}). Run: chown {os.geteuid()} {path}"
            ) from error
        raise ConfigurationError(
            f"{name} is not set and {path} cannot be used to keep one ({error.strerror})."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{name}: the file {path} is damaged: it is no text; restore it from a backup."
        ) from error
    if not value:
        raise ConfigurationError(f"{name}: the file {path} is empty; restore it from a backup.")
    return value
