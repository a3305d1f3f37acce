"""API keys: what they look like, what they may be given, how they are found and ended."""

import hashlib
import json
import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from accounts.queries import project_view
from apikeys.models import ApiKey
from apikeys.services import (
    KEY_PATTERN,
    create_api_key,
    find_api_key,
    principal_of,
    revoke_api_key,
)
from core.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from core.principal import Principal, Scope

ALL = sorted(Scope)


def principal(key: str) -> Principal:
    """What the key may do now, as a request with it would."""
    found = find_api_key(key)
    assert found is not None
    return principal_of(found, request_id="", client="")


def test_a_key_has_a_prefix_and_43_url_safe_characters(alice: Account, project: Project) -> None:
    made = {create_api_key(owner=alice, project=project, label="x")[1] for _ in range(50)}
    assert len(made) == 50
    for key in made:
        assert re.fullmatch(r"m0sk_[A-Za-z0-9_-]{43}", key)
        assert KEY_PATTERN.fullmatch(key)


def test_a_key_is_kept_as_a_digest_with_what_people_recognise_it_by(
    alice: Account, project: Project
) -> None:
    row, key = create_api_key(owner=alice, project=project, label="  My laptop ")
    row.refresh_from_db()
    assert row.label == "My laptop"
    assert (row.prefix, row.last4) == (key[:12], key[-4:])
    assert row.digest == hashlib.sha256(key.encode()).hexdigest()
    kept = [str(value) for value in ApiKey.objects.values_list().get(pk=row.pk)]
    assert not any(key in value or key[12:-4] in value for value in kept)
    assert (row.last_used_at, row.revoked_at, row.expires_at) == (None, None, None)


def test_without_scopes_a_key_gets_all_that_its_owner_has(
    alice: Account, bob: Account, project: Project
) -> None:
    assert create_api_key(owner=alice, project=project, label="x")[0].scopes == ALL
    assert create_api_key(owner=bob, project=project, label="x")[0].scopes == ["read", "write"]
    Membership.objects.filter(account=bob).update(role=Role.REVIEWER)
    row, _ = create_api_key(owner=bob, project=project, label="x")
    assert row.scopes == ["read", "review", "write"]


def test_a_key_is_not_given_more_than_its_owner_has(
    bob: Account, charlie: Account, project: Project
) -> None:
    for scope in (Scope.REVIEW, Scope.ADMIN):
        with pytest.raises(PermissionDeniedError):
            create_api_key(owner=bob, project=project, label="x", scopes=[Scope.READ, scope])
    for scopes in (None, [Scope.READ]):
        with pytest.raises((PermissionDeniedError, InvalidInputError)):
            create_api_key(owner=charlie, project=project, label="x", scopes=scopes)
    assert not ApiKey.objects.exists()


def test_a_key_needs_a_label_and_a_scope(alice: Account, project: Project) -> None:
    for label in ("", "   ", "x" * 151):
        with pytest.raises(InvalidInputError):
            create_api_key(owner=alice, project=project, label=label)
    with pytest.raises(InvalidInputError):
        create_api_key(owner=alice, project=project, label="x", scopes=[])
    assert not ApiKey.objects.exists()


def test_an_entity_limit_has_to_name_ids(alice: Account, project: Project) -> None:
    for limit in (
        {"name": ["alice"]},
        {"user_id": []},
        {"user_id": [""]},
        {"user_id": ["alice", ""]},
        {"metadata": ["x"]},
    ):
        with pytest.raises(InvalidInputError):
            create_api_key(owner=alice, project=project, label="x", entity_limit=limit)
    assert not ApiKey.objects.exists()


def test_a_key_never_makes_a_key_with_more_scopes_than_it_has(
    alice: Account, project: Project
) -> None:
    maker = principal(
        create_api_key(owner=alice, project=project, label="x", scopes=[Scope.WRITE])[1]
    )
    made, _ = create_api_key(owner=alice, project=project, label="y", maker=maker)
    assert made.scopes == ["write"]
    for scope in (Scope.READ, Scope.REVIEW, Scope.ADMIN):
        with pytest.raises(PermissionDeniedError):
            create_api_key(owner=alice, project=project, label="z", scopes=[scope], maker=maker)


def test_a_key_never_makes_a_key_that_reaches_further(alice: Account, project: Project) -> None:
    limit = {"user_id": ["alice", "zoe"], "app_id": ["proj"]}
    maker = principal(
        create_api_key(owner=alice, project=project, label="x", entity_limit=limit)[1]
    )

    def child(limit: dict[str, list[str]] | None) -> Any:
        made, _ = create_api_key(
            owner=alice, project=project, label="y", entity_limit=limit, maker=maker
        )
        return made.entity_limit

    assert child(None) == {"user_id": ["alice", "zoe"], "app_id": ["proj"]}
    assert child({"user_id": ["zoe"]}) == {"user_id": ["zoe"], "app_id": ["proj"]}
    assert child({"user_id": ["zoe", "bob"]}) == {"user_id": ["zoe"], "app_id": ["proj"]}
    assert child({"run_id": ["r"]})["run_id"] == ["r"]
    with pytest.raises(PermissionDeniedError):
        child({"user_id": ["bob"]})


def test_a_key_never_makes_a_key_of_another_project_or_in_another_name(
    alice: Account, bob: Account, project: Project, other_project: Project
) -> None:
    maker = principal(create_api_key(owner=alice, project=project, label="x")[1])
    with pytest.raises(PermissionDeniedError):
        create_api_key(owner=alice, project=other_project, label="y", maker=maker)
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    his = principal(create_api_key(owner=bob, project=project, label="x")[1])
    with pytest.raises(PermissionDeniedError):
        create_api_key(owner=alice, project=project, label="y", maker=his)


def test_the_rights_of_a_key_follow_its_owners_role(bob: Account, project: Project) -> None:
    membership = Membership.objects.get(account=bob)
    membership.role = Role.ADMIN
    membership.save()
    _, key = create_api_key(owner=bob, project=project, label="x")
    for role, scopes in (
        (Role.ADMIN, {"read", "write", "review", "admin"}),
        (Role.REVIEWER, {"read", "write", "review"}),
        (Role.MEMBER, {"read", "write"}),
    ):
        Membership.objects.filter(account=bob).update(role=role)
        assert principal(key).scopes == scopes
    membership.delete()
    assert principal(key).scopes == set()


def test_malformed_keys_are_refused_without_a_database_query(
    client: Any, key: Any, django_assert_num_queries: Any
) -> None:
    sound = key()
    malformed = [
        "",
        "m0sk_",
        "m0sk_" + "x" * 42,
        "m0sk_" + "x" * 44,
        "M0SK_" + "x" * 43,
        "m0sk_" + "x" * 42 + "é",
        "m0sk_" + "x" * 42 + "=",
        "sk-" + "x" * 45,
        sound[:-1],
        sound + "A",
        "'; DROP TABLE apikeys_apikey; --",
        "x" * 7000,
    ]
    with django_assert_num_queries(0):
        for credential in malformed:
            for headers in (
                {"X-API-Key": credential},
                {"Authorization": f"Token {credential}"},
                {"Authorization": f"Bearer {credential}"},
            ):
                assert client.get("/entities", headers=headers).status_code == 401, credential
        assert client.get("/entities").status_code == 401
    assert find_api_key(sound + "\n") is None
    assert client.get("/entities", headers={"X-API-Key": sound}).status_code == 200


def test_a_sound_key_is_found_with_its_owner_and_role_in_one_query(
    bob: Account, key: Any, django_assert_num_queries: Any
) -> None:
    made = key("read", owner=bob)
    with django_assert_num_queries(1):
        caller = principal(made)
    assert (caller.account_id, caller.project.slug) == (bob.id, "default")
    assert caller.scopes == {"read"}


def test_the_last_use_is_written_at_most_once_a_minute(
    client: Any, key: Any, django_assert_max_num_queries: Any
) -> None:
    headers = {"X-API-Key": key("read")}
    before = timezone.now()
    assert client.get("/entities", headers=headers).status_code == 200
    first = ApiKey.objects.get().last_used_at
    assert first is not None and before <= first <= timezone.now()
    with django_assert_max_num_queries(40) as captured:
        for _ in range(5):
            client.get("/entities", headers=headers)
    assert not [q for q in captured if q["sql"].startswith("UPDATE")]
    assert ApiKey.objects.get().last_used_at == first
    ApiKey.objects.update(last_used_at=first - timedelta(seconds=61))
    client.get("/entities", headers=headers)
    last = ApiKey.objects.get().last_used_at
    assert last is not None and last >= first


def test_a_refused_key_counts_as_not_used(client: Any, key: Any) -> None:
    made = key()
    ApiKey.objects.update(revoked_at=timezone.now())
    assert client.get("/entities", headers={"X-API-Key": made}).status_code == 401
    assert ApiKey.objects.get().last_used_at is None


def command(name: str, *arguments: str) -> str:
    out = StringIO()
    call_command(name, *arguments, stdout=out)
    return out.getvalue()


def test_the_command_line_makes_a_key_that_works(alice: Account, client: Any) -> None:
    made = command("create_api_key", "ALICE@example.org", "--label", "ci").split()[-1]
    row = ApiKey.objects.get()
    assert (row.label, row.scopes, row.project.slug) == ("ci", ["read", "write"], "default")
    assert row.expires_at is not None
    assert timedelta(days=89) < row.expires_at - timezone.now() <= timedelta(days=90)
    assert client.get("/entities", headers={"X-API-Key": made}).status_code == 200
    assert client.get("/memories", headers={"X-API-Key": made}).status_code == 403


def test_the_command_line_makes_a_key_with_scopes_limit_and_no_end(alice: Account) -> None:
    arguments = ["--scope", "read", "--scope", "admin", "--days", "0", "--json"]
    arguments += ["--only-user-id", "alice", "--only-user-id", "zoe", "--only-app-id", "proj"]
    out = command("create_api_key", "alice@example.org", "--label", "x", *arguments)
    answer = json.loads(out.splitlines()[-1])
    row = ApiKey.objects.get(id=answer["id"])
    assert KEY_PATTERN.fullmatch(answer["api_key"])
    assert (row.scopes, row.expires_at) == (["admin", "read"], None)
    assert row.entity_limit == {"user_id": ["alice", "zoe"], "app_id": ["proj"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody@example.org", "--label", "x"], "There is no account"),
        (["bob@example.org", "--label", "x", "--project", "nowhere"], "There is no project"),
        (["bob@example.org", "--label", "x", "--scope", "admin"], "more than its maker has"),
        (["bob@example.org", "--label", "x", "--scope", "root"], "invalid choice"),
        (["bob@example.org", "--label", " "], "label"),
        (["bob@example.org", "--label", "x", "--days", "-1"], "--days"),
        (["bob@example.org", "--label", "x", "--days", "99999999"], "--days"),
        (["bob@example.org", "--label", "x", "--only-user-id", ""], "limit"),
    ],
)
def test_what_the_command_line_cannot_make_it_says_in_a_sentence(
    bob: Account, arguments: list[str], message: str
) -> None:
    with pytest.raises(CommandError, match=re.escape(message)):
        command("create_api_key", *arguments)
    assert not ApiKey.objects.exists()


def test_the_command_line_ends_a_key_and_lists_them_without_showing_any(
    alice: Account, key: Any, client: Any
) -> None:
    made, other = key("read"), key()
    assert command("revoke_api_key", made[:12])
    assert client.get("/entities", headers={"X-API-Key": made}).status_code == 401
    assert client.get("/entities", headers={"X-API-Key": other}).status_code == 200
    listed = command("revoke_api_key", "--list")
    assert f"{made[:12]}…{made[-4:]}  revoked" in listed
    assert f"{other[:12]}…{other[-4:]}  live" in listed
    assert made not in listed and other not in listed
    for prefix in (made[:12], "m0sk_unknown", ""):
        with pytest.raises(CommandError):
            command("revoke_api_key", prefix)
    assert client.get("/entities", headers={"X-API-Key": other}).status_code == 200


def test_nobody_ends_the_key_of_somebody_else(alice: Account, bob: Account, key: Any) -> None:
    made = key()
    row = ApiKey.objects.get()
    with pytest.raises(NotFoundError):
        revoke_api_key(key_id=row.id, owner=bob)
    assert find_api_key(made) is not None and row.revoked_at is None
    revoke_api_key(key_id=row.id, owner=alice)
    with pytest.raises(InvalidInputError, match=r"^API key is already revoked\.$"):
        revoke_api_key(key_id=row.id, owner=alice)


def test_a_project_is_seen_by_a_principal_as_it_is(project: Project) -> None:
    project.default_user_id = "house"
    project.hide_unreviewed = True
    view = project_view(project)
    assert (view.slug, view.default_user_id, view.hide_unreviewed) == ("default", "house", True)


def test_a_key_brings_its_project_as_it_is(project: Project, key: Any) -> None:
    values = {"default_user_id": "house", "hide_unreviewed": True, "retention_days": 5}
    Project.objects.update(**values, time_zone="Europe/Berlin")
    found = find_api_key(key())
    assert found is not None and found.project.time_zone == "Europe/Berlin"
    assert found.project == project_view(Project.objects.get())
