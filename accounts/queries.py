"""Reads of accounts and projects."""

from accounts.models import Project
from mem0dash.errors import NotFoundError
from mem0dash.principal import ALL_SCOPES, Principal, ProjectView


def project_view(project: Project) -> ProjectView:
    return ProjectView(
        id=project.id,
        slug=project.slug,
        default_user_id=project.default_user_id,
        hide_unreviewed=project.hide_unreviewed,
        retention_days=project.retention_days,
    )


def operator_of(slug: str) -> Principal:
    """The operator at the machine's own command line, in the project `slug`; NotFoundError."""
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        raise NotFoundError(f"There is no project {slug!r}.")
    return Principal(
        project=project_view(project), scopes=ALL_SCOPES, via="internal", is_owner=True
    )
