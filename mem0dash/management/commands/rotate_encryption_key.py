"""Re-encrypts every stored secret with the newest encryption key."""

from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.db import models, transaction

from accounts import audit
from accounts.audit import AuditAction
from accounts.models import InstanceState
from core import crypto
from core.principal import OPERATOR
from memories.engine.configuration import SEALED
from memories.models.server import EngineConfig, Reembedding

# Every column that stores tokens of crypto.encrypt: a token, or JSON with tokens in it. Listed
# explicitly, because JSON from callers could contain something that looks like a secret.
SECRETS: Final[tuple[tuple[type[models.Model], str], ...]] = (
    (InstanceState, "encryption_check"),
    (EngineConfig, "config"),
    (Reembedding, "config"),
    (Reembedding, "former_config"),
)


class _Rotation:
    """Re-encrypts values, and counts the secrets."""

    def __init__(self) -> None:
        self.secrets = 0
        self.changed = 0

    def apply(self, value: Any) -> Any:
        """`value`, a token or JSON, with every secret in it under the first key."""
        if isinstance(value, str):
            return self._token(value) if value else value
        return self._inside(value)

    def _inside(self, value: Any) -> Any:
        if isinstance(value, dict):
            if SEALED in value:
                return {**value, SEALED: self._token(value[SEALED])}
            return {key: self._inside(inner) for key, inner in value.items()}
        return [self._inside(inner) for inner in value] if isinstance(value, list) else value

    def _token(self, token: str) -> str:
        fresh = crypto.reencrypt(token)
        self.secrets += 1
        self.changed += fresh != token
        return fresh


class Command(BaseCommand):
    help = (
        "Encrypts every stored secret with the first of the keys in ENCRYPTION_KEY. "
        "All or nothing; may be repeated, and run while the server runs with the same keys."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        rotation = _Rotation()
        with transaction.atomic():
            for model, column in SECRETS:
                self._rotate(rotation, model, column)
            already = rotation.secrets - rotation.changed
            audit.record(
                AuditAction.ENCRYPTION_KEY_ROTATED,
                actor=OPERATOR,
                details={"changed": rotation.changed, "unchanged": already},
            )
        self.stdout.write(
            f"{rotation.changed} stored secrets are encrypted anew with the first key of "
            f"ENCRYPTION_KEY, {already} were already.\n"
            "Other keys in ENCRYPTION_KEY are needed for backups from before only."
        )

    @staticmethod
    def _rotate(rotation: _Rotation, model: type[models.Model], column: str) -> None:
        rows = model._default_manager.select_for_update().order_by("pk")
        for pk, value in list(rows.values_list("pk", column)):
            try:
                fresh = rotation.apply(value)
            except crypto.WrongEncryptionKeyError as error:
                raise CommandError(
                    f"ENCRYPTION_KEY does not open the secret in {model._meta.verbose_name} {pk}. "
                    "Nothing has been changed: add the key that it was encrypted with."
                ) from error
            if fresh != value:
                model._default_manager.filter(pk=pk).update(**{column: fresh})
