"""Labels of keys, for pages that know only a key's prefix."""

from collections.abc import Iterable
from uuid import UUID

from apikeys.models import ApiKey


def labels_of(project_id: UUID, prefixes: Iterable[str]) -> dict[str, str]:
    """settings.KEY_LABELS: prefix -> label of the project's keys, revoked ones included."""
    unique_prefixes = {prefix for prefix in prefixes if prefix}
    keys = ApiKey.objects.filter(project_id=project_id, prefix__in=unique_prefixes)
    return dict(keys.order_by("created_at").values_list("prefix", "label"))
