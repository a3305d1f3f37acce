"""Selections under a name: whose they are, who sees them, who deletes them."""

from dataclasses import replace

import pytest
from django.http import QueryDict

from accounts.queries import project_view
from core.errors import ConflictError, InvalidInputError, NotFoundError, PermissionDeniedError
from core.principal import Scope
from memories.browse import saved_views
from memories.browse.selection import Selection

STALE = Selection.of(QueryDict("user_id=mara&user_id=&review_status=stale&q=tea&mode=words"))


@pytest.fixture
def member(owner, bob):
    """Bob, who may read and write."""
    return replace(
        owner, account_id=bob.id, scopes=frozenset({Scope.READ, Scope.WRITE}), is_owner=False
    )


def names(principal):
    return [view.name for view in saved_views.list_views(principal)]


def test_a_view_shows_again_what_was_kept(owner):
    view = saved_views.save(owner, "  Stale   tea ", STALE)
    assert view.name == "Stale tea"
    [kept] = saved_views.list_views(owner)
    assert saved_views.selection_of(kept) == STALE


def test_the_same_name_is_replaced_for_its_owner_alone(owner, member):
    saved_views.save(owner, "Mine", STALE)
    saved_views.save(owner, "Mine", Selection())
    saved_views.save(member, "Mine", STALE)
    assert saved_views.selection_of(saved_views.list_views(owner)[0]) == Selection()
    assert saved_views.selection_of(saved_views.list_views(member)[0]) == STALE


def test_others_see_shared_views_alone_and_no_other_project_any(owner, member, other_project):
    saved_views.save(owner, "A shared", STALE, shared=True)
    saved_views.save(owner, "B mine", STALE)
    assert names(owner) == ["A shared", "B mine"]
    assert names(member) == ["A shared"]
    assert names(replace(owner, project=project_view(other_project))) == []


def test_who_acts_without_an_account_has_views_too(owner):
    nobody = replace(owner, account_id=None)
    saved_views.save(nobody, "Ops", STALE)
    saved_views.save(nobody, "Ops", Selection())
    assert names(nobody) == ["Ops"]
    assert names(owner) == []


def test_sharing_needs_review_and_anything_needs_read(owner, member):
    with pytest.raises(PermissionDeniedError):
        saved_views.save(member, "x", STALE, shared=True)
    writer = replace(owner, scopes=frozenset({Scope.WRITE}))
    for ask in (saved_views.list_views, lambda p: saved_views.save(p, "x", STALE)):
        with pytest.raises(PermissionDeniedError):
            ask(writer)
    assert names(owner) == []


def test_a_view_is_deleted_by_its_owner_or_an_admin(owner, member, other_project):
    shared = saved_views.save(owner, "Shared", STALE, shared=True)
    mine = saved_views.save(owner, "Mine", STALE)
    bobs = saved_views.save(member, "Bob's", STALE)
    elsewhere = replace(owner, project=project_view(other_project))
    for principal, view, error in (
        (member, shared, PermissionDeniedError),
        (member, mine, NotFoundError),
        (owner, bobs, NotFoundError),
        (elsewhere, mine, NotFoundError),
    ):
        with pytest.raises(error):
            saved_views.delete(principal, view.id)
    saved_views.delete(owner, shared.id)
    saved_views.delete(member, bobs.id)
    assert names(owner) == ["Mine"]
    with pytest.raises(NotFoundError):
        saved_views.delete(owner, 10**9)


@pytest.mark.parametrize("name", ["", "   ", "x" * 81, "a\0b", "a\u202eb"])
def test_names_that_cannot_be_shown_are_refused(owner, name):
    with pytest.raises(InvalidInputError):
        saved_views.save(owner, name, STALE)


def test_there_is_an_end_to_views(owner, monkeypatch):
    monkeypatch.setattr(saved_views, "MAX_VIEWS", 2)
    saved_views.save(owner, "1", STALE)
    saved_views.save(owner, "2", STALE)
    with pytest.raises(ConflictError):
        saved_views.save(owner, "3", STALE)
    saved_views.save(owner, "2", Selection())
