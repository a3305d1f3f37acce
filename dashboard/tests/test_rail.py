"""The rail: which page one is on, or which page the one belongs to that one is on."""

import re
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account, InstanceState
from accounts.services import complete_setup
from accounts.tests.signing import sign_in
from memories.tests.actions import add

pytestmark = pytest.mark.one_form

MARKED = re.compile(r'class="rail-link" href="([^"]+)" aria-current="(\w+)"')
ENTITY = "/dashboard/entities/delete?type=user&name=mara"


@pytest.fixture
def signed_in(engine: Any, alice: Account) -> Client:
    InstanceState.objects.update(owner_created_at=timezone.now())
    complete_setup()
    return sign_in(alice)


def marked(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 200
    return MARKED.findall(answer.content.decode())


@pytest.mark.parametrize(
    ("path", "link", "how"),
    [
        ("/dashboard", "/dashboard", "page"),
        ("/dashboard/memories", "/dashboard/memories", "page"),
        ("/dashboard/memories/add", "/dashboard/memories", "true"),
        ("/dashboard/memories/filters", "/dashboard/memories", "true"),
        ("/dashboard/memories/views", "/dashboard/memories", "true"),
        ("/dashboard/operations", "/dashboard/memories", "true"),
        (ENTITY, "/dashboard/entities", "true"),
        ("/dashboard/activity", "/dashboard/activity", "page"),
        ("/dashboard/settings", "/dashboard/settings", "page"),
        ("/dashboard/jobs", "/dashboard/jobs", "page"),
        ("/dashboard/jobs?state=done", "/dashboard/jobs", "page"),
    ],
)
def test_one_page_is_marked(signed_in: Client, owner: Any, path: str, link: str, how: str) -> None:
    add(owner, "Drinks tea", user_id="mara")
    assert marked(signed_in.get(path)) == [(link, how)]


def test_the_steps_of_a_change_belong_to_the_memories(signed_in: Client, owner: Any) -> None:
    [id_] = add(owner, "Drinks tea", user_id="mara")
    below = [("/dashboard/memories", "true")]
    assert marked(signed_in.get(f"/dashboard/memories/{id_}/edit")) == below
    look = {"ids": [str(id_)], "action": "approve"}
    assert marked(signed_in.post("/dashboard/memories/bulk", look)) == below
