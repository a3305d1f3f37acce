"""The time zone of a project as its administrators choose it."""

from dataclasses import replace
from typing import Any

import pytest
from django.test import Client

from accounts.models import Account, Project, Role
from accounts.services import set_time_zone
from accounts.tests.signing import sign_in
from core import zones
from core.errors import InvalidInputError, PermissionDeniedError
from core.principal import Scope
from memories.tests.pages import text_of

pytestmark = pytest.mark.one_form

PAGE = "/dashboard/settings"
SAVE = f"{PAGE}/time-zone"


@pytest.fixture
def admin(alice: Account, bob: Account) -> Client:
    """The client of somebody who administers the project, and not the server."""
    return sign_in(bob, Role.ADMIN)


def zone_of(project: Project) -> str:
    return Project.objects.get(id=project.id).time_zone


def chosen(page: str) -> list[str]:
    """The values of the options that are chosen."""
    return [one.split('value="')[-1].split('"')[0] for one in page.split(" selected")[:-1]]


def test_an_administrator_chooses_it_and_finds_it_again(admin: Client, project: Project) -> None:
    page = text_of(admin.get(PAGE))
    assert chosen(page) == [""] and "The server's (UTC)" in page
    answer = admin.post(SAVE, {"time_zone": "Europe/Berlin"}, follow=True)
    assert answer.redirect_chain == [(PAGE, 302)]
    page = text_of(answer)
    assert "Days are in Europe/Berlin, from now on." in page
    assert chosen(page) == ["Europe/Berlin"] and zone_of(project) == "Europe/Berlin"
    page = text_of(admin.post(SAVE, {"time_zone": ""}, follow=True))
    assert "Days are in UTC, the server's zone, from now on." in page
    assert chosen(page) == [""] and zone_of(project) == ""


@pytest.mark.parametrize("sent", ["Berlin", "europe/berlin", "../UTC", "Europe/Berlin\0", "<b>"])
def test_what_is_no_zone_is_told_beside_the_list(
    admin: Client, project: Project, sent: str
) -> None:
    answer = admin.post(SAVE, {"time_zone": sent})
    assert answer.status_code == 422
    assert "Choose a time zone of the list." in text_of(answer) or "Null characters" in text_of(
        answer
    )
    assert "<b>" not in answer.content.decode().split('name="time_zone"')[1].split("</select>")[0]
    assert zone_of(project) == ""


@pytest.mark.parametrize("role", [Role.MEMBER, Role.REVIEWER])
def test_who_does_not_administer_the_project_neither_sees_nor_changes_it(
    alice: Account, bob: Account, project: Project, role: Role
) -> None:
    signed_in = sign_in(bob, role)
    assert signed_in.get(PAGE).status_code == 403
    for sent in ("Europe/Berlin", "nonsense"):
        assert signed_in.post(SAVE, {"time_zone": sent}).status_code == 403
    assert zone_of(project) == ""
    assert f'href="{PAGE}"' not in signed_in.get("/dashboard").content.decode()


def test_an_administrator_sees_nothing_of_the_server(admin: Client) -> None:
    page = text_of(admin.get(PAGE))
    assert "Late interaction" not in page and f'href="{PAGE}"' in page


def test_it_is_changed_by_posting_alone_and_not_from_other_sites(
    alice: Account, project: Project
) -> None:
    signed_in = sign_in(alice, enforce_csrf_checks=True)
    assert signed_in.post(SAVE, {"time_zone": "Europe/Berlin"}).status_code == 403
    assert signed_in.get(SAVE, {"time_zone": "Europe/Berlin"}).status_code == 405
    answer = Client().post(SAVE, {"time_zone": "Europe/Berlin"})
    assert answer.status_code in {302, 403}
    assert zone_of(project) == ""


def test_an_administrator_changes_the_own_project_alone(
    alice: Account, charlie: Account, project: Project, other_project: Project
) -> None:
    sign_in(charlie).post(SAVE, {"time_zone": "Asia/Tokyo"})
    assert zone_of(other_project) == "Asia/Tokyo" and zone_of(project) == ""


@pytest.mark.parametrize(
    "less",
    [
        {"entity_limit": {"user_id": frozenset({"mara"})}},
        {"scopes": frozenset({Scope.READ, Scope.WRITE, Scope.REVIEW})},
    ],
)
def test_a_credential_with_less_changes_nothing(owner: Any, project: Project, less: Any) -> None:
    with pytest.raises(PermissionDeniedError):
        set_time_zone(replace(owner, **less), "Europe/Berlin")
    assert zone_of(project) == ""


def test_the_service_takes_zones_alone(owner: Any, project: Project) -> None:
    with pytest.raises(InvalidInputError, match="IANA"):
        set_time_zone(owner, "Berlin")
    set_time_zone(owner, "Etc/GMT+5")
    assert zone_of(project) == "Etc/GMT+5"


def test_a_zone_that_is_not_in_the_list_stays_until_another_is_chosen(
    admin: Client, project: Project
) -> None:
    Project.objects.update(time_zone="Etc/GMT+5")
    assert chosen(text_of(admin.get(PAGE))) == ["Etc/GMT+5"]
    admin.post(SAVE, {"time_zone": "Etc/GMT+5"})
    assert zone_of(project) == "Etc/GMT+5"


def test_a_machine_without_zones_offers_utc(
    admin: Client, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zones, "list_zones", dict)
    page = text_of(admin.get(PAGE))
    assert page.count("<option") == 2
    admin.post(SAVE, {"time_zone": "UTC"})
    assert zone_of(project) == "UTC"


def test_the_environment_names_what_holds_without_a_choice(admin: Client, settings: Any) -> None:
    settings.DEFAULT_TIME_ZONE = "Asia/Tokyo"
    page = text_of(admin.get(PAGE))
    assert "The server's (Asia/Tokyo)" in page and "From (Asia/Tokyo)" in text_of(
        admin.get("/dashboard/activity")
    )
