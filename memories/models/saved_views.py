"""Filters that people keep by a name."""

from django.db import models
from django.db.models import Q


class SavedView(models.Model):
    """A selection of the memory browser under a name: its owner's, or for everyone in the project.

    `params` maps names of the address to lists of values, as selection.Selection reads them.
    """

    project = models.ForeignKey("accounts.Project", models.CASCADE, related_name="+")
    # None is who acts as instance owner without an account.
    owner = models.ForeignKey("accounts.Account", models.CASCADE, null=True, related_name="+")
    name = models.CharField(max_length=80)
    params = models.JSONField(default=dict)
    shared = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["project", "owner", "name"], name="one_view_per_name"),
            models.UniqueConstraint(
                fields=["project", "name"],
                condition=Q(owner=None),
                name="one_view_per_name_of_nobody",
            ),
        )

    def __str__(self) -> str:
        return self.name
