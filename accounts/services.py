"""Writes to accounts, projects and the instance."""

from uuid import UUID

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import DEFAULT_DB_ALIAS, IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from accounts import audit, setup, throttle
from accounts.audit import AuditAction, AuditTarget, account_target
from accounts.models import Account, InstanceState, Project
from accounts.queries import DEFAULT_PROJECT, scopes_in
from accounts.setup import forget_setup_token
from core import crypto, zones
from core.env import ConfigurationError
from core.errors import (
    ConflictError,
    InvalidCredentialError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from core.principal import OPERATOR, Actor, Principal

NAME_LENGTH = 150
EMAIL_LENGTH = 254
PASSWORD_LENGTH = 8
_CHECK_WORD = "mem0dash"


def ensure_instance(*, using: str = DEFAULT_DB_ALIAS) -> None:
    """Makes the instance row and the project `Default` if they are missing."""
    InstanceState.objects.using(using).get_or_create(id=1)
    Project.objects.using(using).get_or_create(slug=DEFAULT_PROJECT, defaults={"name": "Default"})


def check_encryption_key() -> None:
    """Raises ConfigurationError if ENCRYPTION_KEY is not the key of this database."""
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
    """`email` as it is stored: trimmed and in lower case; InvalidInputError if it is invalid."""
    email = email.strip().lower()
    if len(email) > EMAIL_LENGTH:
        raise InvalidInputError(f"An e-mail address has at most {EMAIL_LENGTH} characters.")
    try:
        validate_email(email)
    except ValidationError as error:
        raise InvalidInputError("Enter a valid e-mail address.") from error
    return email


def _check_name(name: str) -> None:
    if len(name) > NAME_LENGTH:
        raise InvalidInputError(f"A name has at most {NAME_LENGTH} characters.")


def _check_password(password: str, account: Account) -> None:
    # With the dialects' message; Django checks everything else about a password.
    if len(password) < PASSWORD_LENGTH:
        raise InvalidInputError(f"Password must be at least {PASSWORD_LENGTH} characters.")
    try:
        validate_password(password, account)
    except ValidationError as error:
        raise InvalidInputError(" ".join(error.messages)) from error


def create_owner(
    *, email: str, name: str, password: str, actor: Actor = OPERATOR, address: str = ""
) -> Account:
    """Creates the first instance owner. This works once in the life of the instance.

    The audit names the new account if `actor` has none; `address` is the client's. Of several
    callers at once exactly one succeeds: the one whose update of the instance row comes first.
    ConflictError for the others; InvalidInputError for an unusable e-mail address or password.
    """
    email = normalise_email(email)
    name = name.strip() or email[:NAME_LENGTH]
    _check_name(name)
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
        audit.record(
            AuditAction.ACCOUNT_MADE,
            actor=actor if actor.via else actor.signed_in(account.id),
            target=account_target(account),
            details={"owner": True},
            address=address,
        )
        transaction.on_commit(forget_setup_token)
    return account


def complete_setup(*, actor: Actor = OPERATOR) -> None:
    """Marks set-up as done; it never opens again."""
    with transaction.atomic():
        open_still = InstanceState.objects.filter(id=1, setup_completed_at=None)
        if open_still.update(setup_completed_at=timezone.now()):
            audit.record(AuditAction.SETUP_COMPLETED, actor=actor)


def register_owner(
    *, email: str, name: str, password: str, actor: Actor = OPERATOR, address: str = ""
) -> Account:
    """Makes the first owner and closes set-up; arguments and errors as `create_owner`."""
    with transaction.atomic():
        account = create_owner(
            email=email, name=name, password=password, actor=actor, address=address
        )
        complete_setup(actor=actor if actor.via else actor.signed_in(account.id))
    return account


def ensure_owner() -> None:
    """Makes the owner of OWNER_EMAIL and OWNER_PASSWORD if there is none, which closes set-up.
    ConfigurationError for an unusable value."""
    if not settings.OWNER_EMAIL or not setup.needs_setup():
        return
    try:
        register_owner(
            email=settings.OWNER_EMAIL, name=settings.OWNER_NAME, password=settings.OWNER_PASSWORD
        )
    except ConflictError:
        return  # another process was faster
    except InvalidInputError as error:
        raise ConfigurationError(f"OWNER_EMAIL and OWNER_PASSWORD: {error.message}") from error


def require_whole_account(principal: Principal, account: Account) -> None:
    """Raises PermissionDeniedError for a key with fewer scopes than its owner, which may not change
    the account."""
    if principal.via != "api_key":
        return
    everything = scopes_in(account, principal.project.id)
    if principal.entity_limit is not None or not everything or principal.scopes != everything:
        raise PermissionDeniedError("This API key may not change the account of its owner.")


def update_account(
    account: Account, *, name: str | None, email: str | None, actor: Actor = OPERATOR
) -> Account:
    """Changes name and address; blank or None leaves them.

    ConflictError when another account has the address; InvalidInputError for an unusable value.
    """
    changes: dict[str, str] = {}
    if name is not None and name.strip():
        changes["name"] = name.strip()
        _check_name(changes["name"])
    if email is not None and email.strip():
        changes["email"] = normalise_email(email)
    if changes:
        differences = {
            field: [getattr(account, field), value]
            for field, value in changes.items()
            if getattr(account, field) != value
        }
        try:
            with transaction.atomic():
                if differences:  # First, because the entry must have the account's old name.
                    target = account_target(account)
                    audit.record(
                        AuditAction.ACCOUNT_CHANGED, actor=actor, target=target, details=differences
                    )
                Account.objects.filter(pk=account.pk).update(**changes)
        except IntegrityError:
            raise ConflictError("Email is already in use.") from None
        account.refresh_from_db()
    return account


def change_password(account: Account, *, current: str, new: str, actor: Actor = OPERATOR) -> None:
    """Gives the account a new password and ends all of its sessions.

    InvalidCredentialError for a wrong current password, RateLimitedError after too many of them;
    InvalidInputError for an unusable new one.
    """
    attempt = throttle.take(throttle.WRONG_PRESENT_PASSWORDS, account.email)
    if not account.check_password(current):
        audit.record_refusal(
            AuditAction.PASSWORD_REFUSED, actor=actor, target=account_target(account)
        )
        raise InvalidCredentialError("Current password is incorrect.")
    throttle.give_back(attempt)
    _set_password(account, new, AuditAction.PASSWORD_CHANGED, actor)


def reset_password(*, email: str, password: str, actor: Actor = OPERATOR) -> None:
    """Sets a new password and ends all sessions of the account. Earlier wrong passwords no longer
    count.

    NotFoundError when there is no such account; InvalidInputError for an unusable password.
    """
    account = _account_with(email)
    _set_password(account, password, AuditAction.PASSWORD_RESET, actor)
    throttle.forget(throttle.WRONG_PASSWORDS, account.email)


def set_active(*, email: str, active: bool, actor: Actor = OPERATOR) -> None:
    """Deactivates an account, with its sessions and keys, or reactivates it; NotFoundError.

    After reactivation its keys work again; earlier sessions stay ended.
    """
    account = _account_with(email)
    with transaction.atomic():
        Account.objects.filter(pk=account.pk).update(
            is_active=active, session_epoch=F("session_epoch") + 1
        )
        audit.record(
            AuditAction.ACCOUNT_ACTIVATED if active else AuditAction.ACCOUNT_DEACTIVATED,
            actor=actor,
            target=account_target(account),
        )


def _account_with(email: str) -> Account:
    account = Account.objects.filter(email=email.strip().lower()).first()
    if account is None:
        raise NotFoundError(f"There is no account with the e-mail address {email}.")
    return account


def _set_password(account: Account, password: str, action: AuditAction, actor: Actor) -> None:
    _check_password(password, account)
    account.set_password(password)
    with transaction.atomic():
        Account.objects.filter(pk=account.pk).update(
            password=account.password, session_epoch=F("session_epoch") + 1
        )
        audit.record(action, actor=actor, target=account_target(account))


def set_time_zone(principal: Principal, name: str) -> None:
    """Sets the time zone of the caller's project: an IANA name, or "" for the instance's.

    Scope `admin`, without an entity limit; InvalidInputError for an unknown zone.
    """
    principal.require_project("the time zone")
    if name and zones.find_zone(name) is None:
        raise InvalidInputError("Choose a time zone by its IANA name, such as Europe/Berlin.")
    with transaction.atomic():
        project = Project.objects.select_for_update(no_key=True).get(id=principal.project.id)
        if project.time_zone == name:
            return
        Project.objects.filter(id=project.id).update(time_zone=name)
        audit.record(
            AuditAction.TIME_ZONE_CHANGED,
            actor=principal.actor,
            project_id=project.id,
            target=AuditTarget("project", project.id, project.name),
            details={"time_zone": [project.time_zone, name]},
        )


def set_instructions(*, project_id: UUID, instructions: str, actor: Actor) -> None:
    """Sets the project's instructions for extracting memories; "" for none."""
    new_text = instructions.strip()
    with transaction.atomic():
        project = Project.objects.select_for_update(no_key=True).get(id=project_id)
        if project.instructions == new_text:
            return
        Project.objects.filter(id=project_id).update(instructions=new_text)
        audit.record(
            AuditAction.INSTRUCTIONS_CHANGED,
            actor=actor,
            project_id=project_id,
            target=AuditTarget("project", project_id, project.name),
            details={"instructions": [project.instructions, new_text]},
        )
