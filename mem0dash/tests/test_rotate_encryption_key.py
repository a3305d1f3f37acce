"""The encryption key is changed without losing a secret, and a wrong one changes nothing."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command

from accounts.models import InstanceState
from accounts.services import check_encryption_key
from core import crypto
from core.env import ConfigurationError
from memories.models.server import EngineConfig, Reembedding

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parent.parent.parent
OLD, NEW, FOREIGN = (Fernet.generate_key().decode() for _ in range(3))


def _sealed(secret: str) -> dict[str, str]:
    return {"$encrypted": crypto.encrypt(json.dumps(secret)), "ends": secret[-3:]}


def _secrets_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        if "$encrypted" in value:
            return [json.loads(crypto.decrypt(value["$encrypted"]))]
        value = list(value.values())
    return [s for inner in value for s in _secrets_in(inner)] if isinstance(value, list) else []


def _stored() -> list[Any]:
    """Everything in which secrets are, as it is."""
    return [
        list(InstanceState.objects.values_list("encryption_check", flat=True)),
        list(EngineConfig.objects.order_by("version").values_list("config", flat=True)),
        list(Reembedding.objects.order_by("id").values_list("config", "former_config")),
    ]


def _rotate() -> str:
    out = io.StringIO()
    call_command("rotate_encryption_key", stdout=out)
    return out.getvalue()


@pytest.fixture
def stored(settings: Any) -> list[str]:
    """Secrets under OLD at every depth; what they are."""
    settings.ENCRYPTION_KEYS = [OLD]
    InstanceState.objects.update(encryption_check="")
    check_encryption_key()
    deep = {"provider": "azure_openai", "config": {"azure_kwargs": {"api_key": _sealed("sk-deep")}}}
    EngineConfig.objects.create(config={"llm": {"config": {"api_key": _sealed("sk-first")}}})
    EngineConfig.objects.create(config={"dims": 3, "llm": deep, "list": [_sealed("sk-list")]})
    EngineConfig.objects.create(config={"dims": 0, "llm": None})
    Reembedding.objects.create(
        config={"embedder": {"config": {"api_key": _sealed("sk-next")}}},
        former_config={"embedder": {"config": {"api_key": _sealed("sk-former")}}},
        model_key="test/words-2",
        dims=8,
    )
    return ["sk-first", "sk-deep", "sk-list", "sk-next", "sk-former"]


def test_secrets_are_readable_before_during_and_after(settings: Any, stored: list[str]) -> None:
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    assert _secrets_in(_stored()[1:2]) == stored[:3]
    before = _stored()
    assert _rotate().startswith("6 stored secrets are encrypted anew")
    settings.ENCRYPTION_KEYS = [NEW]
    check_encryption_key()
    rows = [*_stored()[1], *(part for row in _stored()[2] for part in row)]
    assert _secrets_in(rows) == stored
    # What is not secret has stayed as it was.
    assert _stored()[1][2] == before[1][2]
    assert _stored()[1][0]["llm"]["config"]["api_key"]["ends"] == "rst"
    settings.ENCRYPTION_KEYS = [OLD]
    with pytest.raises(crypto.WrongEncryptionKeyError):
        _secrets_in(rows)


def test_it_may_be_repeated(settings: Any, stored: list[str]) -> None:
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    _rotate()
    once = _stored()
    assert _rotate().startswith("0 stored secrets are encrypted anew")
    settings.ENCRYPTION_KEYS = [NEW]
    assert "6 were already" in _rotate()
    assert _stored() == once


def test_what_ends_in_the_middle_has_changed_nothing(
    settings: Any, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    before, calls = _stored(), []
    inner = crypto.reencrypt

    def killed(token: str) -> str:
        calls.append(token)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return inner(token)

    monkeypatch.setattr(crypto, "reencrypt", killed)
    with pytest.raises(KeyboardInterrupt):
        _rotate()
    assert _stored() == before


@pytest.mark.parametrize("keys", [[FOREIGN], [FOREIGN, NEW]])
def test_a_wrong_key_is_an_error_and_changes_nothing(
    settings: Any, stored: list[str], keys: list[str]
) -> None:
    settings.ENCRYPTION_KEYS = keys
    before = _stored()
    with pytest.raises(CommandError, match="Nothing has been changed"):
        _rotate()
    with pytest.raises(ConfigurationError, match="nothing has been changed"):
        check_encryption_key()
    assert _stored() == before


def test_one_secret_under_a_lost_key_stops_the_whole(settings: Any, stored: list[str]) -> None:
    settings.ENCRYPTION_KEYS = [FOREIGN]
    EngineConfig.objects.create(config={"llm": {"config": {"api_key": _sealed("sk-lost")}}})
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    before = _stored()
    with pytest.raises(CommandError, match="engine config"):
        _rotate()
    assert _stored() == before


def test_every_place_that_encrypts_is_known_to_the_command() -> None:
    """Whoever stores secrets elsewhere adds the column to rotate_encryption_key.SECRETS, then the
    module here."""
    using = {
        path.relative_to(ROOT).as_posix()
        for room in ("core", "accounts", "jobs", "apikeys", "oauth", "operations", "memories")
        for path in (ROOT / room).rglob("*.py")
        if "tests" not in path.relative_to(ROOT).parts
        and "crypto.encrypt(" in path.read_text(encoding="utf-8")
    }
    assert using == {"accounts/services.py", "memories/engine/configuration.py"}
