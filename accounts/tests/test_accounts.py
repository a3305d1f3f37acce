"""The instance and its people: set-up from the command line, passwords, the encryption key."""

import json
import threading
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, transaction

from accounts.models import Account, InstanceState, Membership, Project
from accounts.services import (
    check_encryption_key,
    create_owner,
    ensure_instance,
    reset_password,
)
from apikeys.models import ApiKey
from core import crypto
from core.env import ConfigurationError
from core.errors import ConflictError, InvalidInputError, NotFoundError

PASSWORD = "correct horse battery"
ALICE = ("--email", "alice@example.org", "--name", "Alice", "--password", PASSWORD)


def bootstrap(*arguments: str) -> str:
    out = StringIO()
    call_command("bootstrap", *arguments, stdout=out)
    return out.getvalue()


def nothing_was_set_up() -> bool:
    state = InstanceState.objects.get(id=1)
    times = (state.owner_created_at, state.setup_completed_at)
    return times == (None, None) and not Account.objects.exists() and not ApiKey.objects.exists()


def test_a_fresh_instance_has_one_project_and_no_account(db: None) -> None:
    assert [p.slug for p in Project.objects.all()] == ["default"]
    assert nothing_was_set_up()
    ensure_instance()
    assert (Project.objects.count(), InstanceState.objects.count()) == (1, 1)


def test_bootstrap_makes_the_owner_and_a_key_and_prints_json_on_the_last_line(
    db: None, client: Any, settings: Any
) -> None:
    settings.PUBLIC_URL = "https://memory.example.org"
    answer = json.loads(bootstrap(*ALICE, "--json").splitlines()[-1])
    assert answer == {
        "email": "alice@example.org",
        "api_key": answer["api_key"],
        "project": "default",
        "base_url": "https://memory.example.org",
    }
    owner = Account.objects.get()
    assert (owner.name, owner.is_owner, owner.is_active) == ("Alice", True, True)
    assert owner.check_password(PASSWORD)
    row = ApiKey.objects.get()
    assert (row.scopes, row.expires_at) == (["admin", "read", "review", "write"], None)
    headers = {"X-API-Key": answer["api_key"]}
    assert client.get("/entities", headers=headers).status_code == 200


def test_bootstrap_without_json_shows_the_key_once(db: None) -> None:
    out = bootstrap(*ALICE)
    assert "alice@example.org owns this instance" in out
    assert out.split()[-1].startswith(ApiKey.objects.get().prefix)


def test_bootstrap_a_second_time_says_so_and_changes_nothing(db: None) -> None:
    bootstrap(*ALICE)
    for email in ("alice@example.org", "eve@example.org"):
        with pytest.raises(CommandError, match=r"^Set-up is closed"):
            bootstrap("--email", email, "--password", PASSWORD, "--json")
    assert [a.email for a in Account.objects.all()] == ["alice@example.org"]
    assert ApiKey.objects.count() == 1


def test_set_up_stays_closed_when_every_account_is_gone(db: None) -> None:
    bootstrap(*ALICE)
    ApiKey.objects.all().delete()
    Account.objects.all().delete()
    with pytest.raises(CommandError, match=r"^Set-up is closed"):
        bootstrap(*ALICE)
    with pytest.raises(ConflictError):
        create_owner(email="eve@example.org", name="Eve", password=PASSWORD)


@pytest.mark.parametrize(
    "email",
    ["", "alice", "alice@", "@example.org", "a b@example.org", "alice@example.org\nBcc: x"],
)
def test_a_bad_address_is_told_and_leaves_nothing_behind(db: None, email: str) -> None:
    with pytest.raises(CommandError, match=r"^Enter a valid e-mail address\.$"):
        bootstrap("--email", email, "--password", PASSWORD)
    assert nothing_was_set_up()


@pytest.mark.parametrize("password", ["short", "password", "12345678901", "alice@example.org"])
def test_a_weak_password_is_told_and_leaves_nothing_behind(db: None, password: str) -> None:
    with pytest.raises(CommandError, match=r"(?i)password"):
        bootstrap("--email", "alice@example.org", "--name", "Alice", "--password", password)
    assert nothing_was_set_up()
    bootstrap(*ALICE)


@pytest.mark.parametrize(
    ("email", "name"),
    [
        (f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.example.org", ""),
        ("alice@example.org", "x" * 151),
        (f"{'a' * 64}@{'b' * 60}.{'c' * 40}.org", ""),
    ],
)
def test_too_long_a_name_or_address_is_told_or_fits(db: None, email: str, name: str) -> None:
    try:
        bootstrap("--email", email, "--name", name, "--password", PASSWORD)
    except CommandError as error:
        assert str(error)
        assert nothing_was_set_up()
    else:
        account = Account.objects.get()
        account.full_clean()


def test_the_address_is_kept_in_lower_case(db: None) -> None:
    create_owner(email="  Alice@Example.ORG ", name="", password=PASSWORD)
    account = Account.objects.get()
    assert account.email == "alice@example.org"
    assert account.name.lower() == "alice@example.org"  # the name that is shown where none is given


def test_of_ten_owners_at_once_exactly_one_is_made(transactional_db: None) -> None:
    start = threading.Barrier(10)
    outcomes: list[str] = []

    def create(number: int) -> None:
        try:
            start.wait()
            create_owner(email=f"owner{number}@example.org", name="", password=PASSWORD)
            outcomes.append("made")
        except ConflictError:
            outcomes.append("closed")
        except DatabaseError as error:
            outcomes.append(repr(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=create, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["closed"] * 9 + ["made"]
    assert Account.objects.filter(is_owner=True).count() == 1
    assert InstanceState.objects.get().owner_created_at is not None


def test_the_database_holds_one_instance_row_and_one_role_per_project(
    project: Project, bob: Account
) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        InstanceState.objects.create(id=2)
    with pytest.raises(IntegrityError), transaction.atomic():
        Membership.objects.create(project=project, account=bob)
    with pytest.raises(IntegrityError), transaction.atomic():
        Account.objects.create(email="bob@example.org", name="Another Bob")


def test_a_reset_password_holds_and_ends_every_session(alice: Account) -> None:
    session = alice.get_session_auth_hash()
    call_command(
        "reset_password",
        "  ALICE@example.org",
        "--password",
        "a whole new world",
        stdout=StringIO(),
    )
    alice.refresh_from_db()
    assert alice.check_password("a whole new world")
    assert not alice.check_password(PASSWORD)
    assert alice.session_epoch == 1
    assert alice.get_session_auth_hash() != session


def test_raising_the_epoch_alone_ends_every_session(alice: Account) -> None:
    session = alice.get_session_auth_hash()
    alice.session_epoch += 1
    assert alice.get_session_auth_hash() != session


def test_a_reset_of_an_unknown_address_says_so(alice: Account) -> None:
    with pytest.raises(CommandError, match="There is no account with the e-mail address eve@x"):
        call_command("reset_password", "eve@x.org", "--password", "a whole new world")
    with pytest.raises(NotFoundError):
        reset_password(email="", password="a whole new world")


def test_a_reset_to_a_weak_password_changes_nothing(alice: Account) -> None:
    for weak in ("short", "password", "alice@example.org"):
        with pytest.raises(InvalidInputError, match=r"(?i)password"):
            reset_password(email=alice.email, password=weak)
        with pytest.raises(CommandError):
            call_command("reset_password", alice.email, "--password", weak)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)
    assert alice.session_epoch == 0


def keys(settings: Any, *values: str) -> None:
    settings.ENCRYPTION_KEYS = list(values)


@pytest.fixture
def old() -> str:
    return Fernet.generate_key().decode()


@pytest.fixture
def new() -> str:
    return Fernet.generate_key().decode()


def test_the_first_encryption_key_is_remembered_and_accepted_again(
    db: None, settings: Any, old: str
) -> None:
    keys(settings, old)
    check_encryption_key()
    remembered = InstanceState.objects.get().encryption_check
    assert remembered and "mem0dash" not in remembered
    check_encryption_key()
    assert InstanceState.objects.get().encryption_check == remembered


def test_a_wrong_encryption_key_is_refused_and_changes_nothing(
    db: None, settings: Any, old: str, new: str
) -> None:
    keys(settings, old)
    check_encryption_key()
    before = InstanceState.objects.values().get()
    keys(settings, new)
    with pytest.raises(ConfigurationError, match=r"^ENCRYPTION_KEY is not the key"):
        check_encryption_key()
    with pytest.raises(ConfigurationError):
        bootstrap(*ALICE)
    assert InstanceState.objects.values().get() == before
    assert not Account.objects.exists()
    keys(settings, old)
    check_encryption_key()


def test_with_several_keys_the_first_encrypts_and_all_decrypt(
    db: None, settings: Any, old: str, new: str
) -> None:
    keys(settings, old)
    check_encryption_key()
    before = crypto.encrypt("provider key")
    assert "provider key" not in before
    keys(settings, new, old)
    check_encryption_key()
    assert crypto.decrypt(before) == "provider key"
    after = crypto.encrypt("provider key")
    keys(settings, new)
    assert crypto.decrypt(after) == "provider key"
    with pytest.raises(crypto.WrongEncryptionKeyError):
        crypto.decrypt(before)
    keys(settings, old)
    with pytest.raises(crypto.WrongEncryptionKeyError):
        crypto.decrypt(after)


def test_equal_secrets_are_encrypted_differently_and_damage_is_noticed(
    settings: Any, old: str
) -> None:
    keys(settings, old)
    assert crypto.encrypt("same") != crypto.encrypt("same")
    token = crypto.encrypt("same")
    other = "B" if token[20] == "A" else "A"
    for damaged in (token[:-2], token[:20] + other + token[21:], "", "nonsense", "é"):
        with pytest.raises(crypto.WrongEncryptionKeyError):
            crypto.decrypt(damaged)
