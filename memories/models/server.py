"""What the server keeps about itself: providers, index, passages to another embedder."""

from typing import Final

from django.db import models
from django.db.models import Q

# The lease of whoever builds a new generation of the index (jobs.leases).
INDEX_BUILD: Final = "index-build"


class EngineConfig(models.Model):
    """A version of the provider settings; secrets in it are encrypted (core.crypto)."""

    version = models.BigAutoField(primary_key=True)
    config = models.JSONField()
    reason = models.CharField(max_length=200, blank=True)
    account = models.ForeignKey("accounts.Account", models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"version {self.version}"


class IndexState(models.Model):
    """The index in use: which embedder its vectors are of, and the folder it lives in.

    `built_at` null says that it does not hold all memories yet: until it does, nothing is answered
    from it. `rebuild_wanted_at` later than `built_at` asks for a rebuild by who holds the index.
    """

    name = models.CharField(max_length=40, primary_key=True, default="default")
    model_key = models.CharField(max_length=200, blank=True)
    dims = models.PositiveIntegerField(default=0)
    generation = models.PositiveIntegerField(default=1)
    built_at = models.DateTimeField(null=True)
    rebuild_wanted_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.name} {self.model_key or 'words only'} #{self.generation}"

    @property
    def wants_rebuild(self) -> bool:
        """Whether it lacks something, or someone asked for a rebuild since it was built."""
        if self.built_at is None:
            return True
        return self.rebuild_wanted_at is not None and self.rebuild_wanted_at >= self.built_at


class Reembedding(models.Model):
    """The passage from one embedder to another: vectors of the new one are made beside the old.

    Search stays with the old model until the index of the new one is built; then one update flips
    both. The old vectors stay, so that the way back needs few embedding calls.
    """

    class State(models.TextChoices):
        RUNNING = "running"
        FLIPPED = "flipped"
        CANCELLED = "cancelled"

    # The configuration of each side, as EngineConfig keeps it, and what its vectors are called.
    config = models.JSONField()
    model_key = models.CharField(max_length=200)
    dims = models.PositiveIntegerField()
    former_config = models.JSONField()
    former_model_key = models.CharField(max_length=200, blank=True)
    former_dims = models.PositiveIntegerField(default=0)
    state = models.CharField(max_length=10, choices=State.choices, default=State.RUNNING)
    # Since when no memory lacks its new vector: what is left is the index.
    embedded_at = models.DateTimeField(null=True)
    # Why the last round failed; it is tried again.
    problem = models.TextField(blank=True)
    account = models.ForeignKey("accounts.Account", models.SET_NULL, null=True, related_name="+")
    started_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["state"], condition=Q(state="running"), name="one_reembedding_at_a_time"
            ),
        )

    def __str__(self) -> str:
        return f"{self.former_model_key or 'words only'} → {self.model_key} ({self.state})"
