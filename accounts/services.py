"""Writes to accounts, projects and the instance."""

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import Account, InstanceState, Project
from mem0dash import crypto
from mem0dash.env import ConfigurationError
from mem0dash.errors import ConflictError, InvalidInputError, NotFoundError

DEFAULT_PROJECT = "default"
NAME_LENGTH = 150
EMAIL_LENGTH = 254
_CHECK_WORD = "mem0dash"


def ensure_instance(*, using: str = DEFAULT_DB_ALIAS) -> None:
    """Makes the instance row and the project `Default` where they are missing."""
    InstanceState.objects.using(using).get_or_create(id=1)
    Project.objects.using(using).get_or_create(slug=DEFAULT_PROJECT, defaults={"name": "Default"})


def check_encryption_key() -> None:
    """Raises ConfigurationError when ENCRYPTION_KEY is not the one this database was made with."""
    state = InstanceState.objects.get(id=1)
    if not state.encryption_check:
        InstanceState.objects.filter(id=1, encryption_check="").update(
            encryption_check=crypto.encrypt(_CHECK_WORD)
        )
        return
    try:
        crypto.decrypt(state.encryption_check)
    except crypto.WrongEncryptionKeyError:
        raise ConfigurationError(
            "ENCRYPTION_KEY is not the key that this database was set up with; restore the key "
            "(or the file encryption_key in the data directory), nothing has been changed."
        ) from None


def normalise_email(email: str) -> str:
    """`email` as it is stored: trimmed and in lower case; InvalidInputError when it is none."""
    email = email.strip().lower()
    if len(email) > EMAIL_LENGTH:
        raise InvalidInputError(f"An e-mail address has at most {EMAIL_LENGTH} characters.")
    try:
        validate_email(email)
    except ValidationError as error:
        raise InvalidInputError("Enter a valid e-mail address.") from error
    return email


def _check_password(password: str, account: Account) -> None:
    try:
        validate_password(password, account)
    except ValidationError as error:
        raise InvalidInputError(" ".join(error.messages)) from error


def create_owner(*, email: str, name: str, password: str) -> Account:
    """Makes the first instance owner, and closes that door for ever.

    Of any number of callers at once exactly one succeeds: the winner is who flips the instance row.
    ConflictError for the others; InvalidInputError for an unusable e-mail address or password.
    """
    email = normalise_email(email)
    name = name.strip() or email[:NAME_LENGTH]
    if len(name) > NAME_LENGTH:
        raise InvalidInputError(f"A name has at most {NAME_LENGTH} characters.")
    account = Account(email=email, name=name, is_owner=True)
    _check_password(password, account)
    account.set_password(password)
    with transaction.atomic():
        won = InstanceState.objects.filter(id=1, owner_created_at=None).update(
            owner_created_at=timezone.now()
        )
        if not won:
            raise ConflictError("Set-up is closed: this instance has an owner already.")
        account.save(force_insert=True)
    return account


def complete_setup() -> None:
    """Marks set-up as done; it never opens again."""
    InstanceState.objects.filter(id=1, setup_completed_at=None).update(
        setup_completed_at=timezone.now()
    )


def reset_password(*, email: str, password: str) -> None:
    """Gives the account a new password and ends all of its sessions.

    NotFoundError when there is no such account; InvalidInputError for an unusable password.
    """
    account = Account.objects.filter(email=email.strip().lower()).first()
    if account is None:
        raise NotFoundError(f"There is no account with the e-mail address {email}.")
    _check_password(password, account)
    account.set_password(password)
    Account.objects.filter(pk=account.pk).update(
        password=account.password, session_epoch=F("session_epoch") + 1
    )
