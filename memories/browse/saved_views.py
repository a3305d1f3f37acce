"""Selections that people keep under a name, for themselves or for everyone in the project."""

from django.db.models import Q, QuerySet

from core.errors import ConflictError, InvalidInputError, NotFoundError, PermissionDeniedError
from core.principal import Principal, Scope
from memories.browse.selection import Selection
from memories.models import SavedView

MAX_NAME = 80
MAX_VIEWS = 100


def _visible(principal: Principal) -> QuerySet[SavedView]:
    rows = SavedView.objects.filter(project_id=principal.project.id)
    own = Q(owner_id=principal.account_id) if principal.account_id else Q(owner=None)
    return rows.filter(own | Q(shared=True)).select_related("owner")


def list_views(principal: Principal) -> list[SavedView]:
    """The caller's own views and those shared in the project, by name. Scope `read`."""
    principal.require(Scope.READ)
    return list(_visible(principal).order_by("name", "id"))


def selection_of(view: SavedView) -> Selection:
    """What the view shows; InvalidInputError when it was stored by another version."""
    return Selection.of(view.params)


def save(
    principal: Principal, name: str, selection: Selection, *, shared: bool = False
) -> SavedView:
    """Keeps a selection under a name; one of the caller's own with that name is replaced.

    Scope `read`; `review` to share it. InvalidInputError for a name that is empty or too long.
    """
    principal.require(Scope.READ)
    if shared:
        principal.require(Scope.REVIEW, "Only who may review shares views with the project.")
        principal.require_unlimited("views")
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInputError(f"A view needs a name of at most {MAX_NAME} characters.")
    own = SavedView.objects.filter(project_id=principal.project.id, owner_id=principal.account_id)
    if not own.filter(name=name).exists() and own.count() >= MAX_VIEWS:
        raise ConflictError(f"You have {MAX_VIEWS} views already: delete one first.")
    view, _ = SavedView.objects.update_or_create(
        project_id=principal.project.id,
        owner_id=principal.account_id,
        name=name,
        defaults={"params": selection.to_storage(), "shared": shared},
    )
    return view


def rename(principal: Principal, view_id: int, name: str) -> SavedView:
    """Gives a view of the caller's another name.

    NotFoundError when missing, foreign or another's; InvalidInputError for a name that is empty or
    too long; ConflictError when another of the caller's views has it.
    """
    principal.require(Scope.READ)
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInputError(f"A view needs a name of at most {MAX_NAME} characters.")
    own = SavedView.objects.filter(project_id=principal.project.id, owner_id=principal.account_id)
    view = own.filter(id=view_id).first()
    if view is None:
        raise NotFoundError("There is no such view.")
    if own.filter(name=name).exclude(id=view_id).exists():
        raise ConflictError(f"Another of your views is called “{name}”.")
    view.name = name
    view.save(update_fields=["name", "updated_at"])
    return view


def delete(principal: Principal, view_id: int) -> SavedView:
    """Deletes a view of the caller's, or, with scope `admin`, a shared one; what it was.

    NotFoundError when missing, foreign or another's own; PermissionDeniedError when it is another's
    and shared.
    """
    principal.require(Scope.READ)
    view = _visible(principal).filter(id=view_id).first()
    if view is None:
        raise NotFoundError("There is no such view.")
    if view.owner_id != principal.account_id and Scope.ADMIN not in principal.scopes:
        raise PermissionDeniedError("Only who made a view, or an admin, deletes it.")
    if view.shared:
        principal.require_unlimited("views")
    view.delete()
    return view
