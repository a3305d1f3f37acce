"""Encrypts stored secrets with ENCRYPTION_KEY; the first of several keys encrypts, all decrypt."""

from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class WrongEncryptionKeyError(Exception):
    """No configured key opens this secret."""


def _keys() -> tuple[str, ...]:
    if settings.ENCRYPTION_KEY_LOST:
        raise WrongEncryptionKeyError(settings.ENCRYPTION_KEY_LOST)
    return tuple(settings.ENCRYPTION_KEYS)


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def encrypt(secret: str) -> str:
    """`secret` as a Fernet token (AES-128-CBC with HMAC-SHA256, https://github.com/fernet/spec)."""
    return _fernet(_keys()).encrypt(secret.encode()).decode()


def decrypt(token: str) -> str:
    """The secret in `token`; WrongEncryptionKeyError if none of the keys decrypts it."""
    try:
        return _fernet(_keys()).decrypt(token.encode()).decode()
    except InvalidToken as error:
        raise WrongEncryptionKeyError("ENCRYPTION_KEY does not open what is stored.") from error


def reencrypt(token: str) -> str:
    """The same secret under the first key; `token` itself if it is under that key already.

    WrongEncryptionKeyError if none of the keys decrypts it.
    """
    try:
        _fernet(_keys()[:1]).decrypt(token.encode())
    except InvalidToken:
        return encrypt(decrypt(token))
    return token
