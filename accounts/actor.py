"""The columns that name an actor, the same in every table that has them."""

from functools import cache
from typing import Any

from django.db import models

from core.principal import ACTOR_FIELDS, Actor


class ActedModel(models.Model):
    """A row that records what somebody did. A table that does not need one of the columns sets it
    to None."""

    account = models.ForeignKey("accounts.Account", models.SET_NULL, null=True, related_name="+")
    via = models.CharField(max_length=20, blank=True)
    key_id = models.UUIDField(null=True)
    key_prefix = models.CharField(max_length=12, blank=True)
    client = models.CharField(max_length=200, blank=True)
    request_id = models.CharField(max_length=64, blank=True)

    class Meta:
        abstract = True

    @property
    def actor(self) -> Actor:
        """The actor, as far as the table has columns for it."""
        values = {name: getattr(self, name, None) for name in ACTOR_FIELDS}
        return Actor(**{name: value for name, value in values.items() if value})

    @classmethod
    def columns(cls, actor: Actor) -> dict[str, Any]:
        """The actor as values of this table's columns."""
        return {name: getattr(actor, name) for name in _own_fields(cls)}


@cache
def _own_fields(model: type[ActedModel]) -> tuple[str, ...]:
    there = {column.attname for column in model._meta.concrete_fields}
    return tuple(name for name in ACTOR_FIELDS if name in there)
