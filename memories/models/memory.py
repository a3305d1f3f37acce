"""What is stored: memories with their vectors, token states and revisions, and kept inputs."""

import uuid
from typing import TYPE_CHECKING, Final

from django.db import models
from django.db.models import F, Q

if TYPE_CHECKING:
    from accounts.models import Project

ENTITY_FIELDS: Final = ("user_id", "agent_id", "app_id", "run_id")
# What the browser counts by, few values first: so a pass over the index that has them in this order
# finds equal ones side by side.
FACET_FIELDS: Final = (
    *("collection", "confidence", "review_status", "source"),
    *("agent_id", "app_id", "user_id", "run_id"),
)
EXPIRY_FIELDS: Final = ("expires_at", "expiration_date")
LIVE: Final = Q(deleted_at__isnull=True)


class Collection(models.TextChoices):
    CONVERSATIONAL = "conversational"
    KNOWLEDGE = "knowledge"


class Confidence(models.TextChoices):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    UNKNOWN = "unknown"


class ReviewStatus(models.TextChoices):
    UNREVIEWED = "unreviewed"
    APPROVED = "approved"
    REJECTED = "rejected"
    STALE = "stale"


class Memory(models.Model):
    """One stored fact. The row is the truth; the index is made from it.

    `rev` grows with every change, `indexed_rev` follows once the index has it on disk: a row with
    `rev > indexed_rev` still has to be applied. An empty string in an entity field means "none".
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey("accounts.Project", models.PROTECT, related_name="memories")
    collection = models.CharField(
        max_length=15, choices=Collection.choices, default=Collection.CONVERSATIONAL
    )
    text = models.TextField()
    # NFKC and case folded, for substring search.
    text_fold = models.TextField()
    user_id = models.CharField(max_length=255, blank=True)
    agent_id = models.CharField(max_length=255, blank=True)
    app_id = models.CharField(max_length=255, blank=True)
    run_id = models.CharField(max_length=255, blank=True)
    # Who said it: the message's name and role, and whom the extraction attributes it to.
    actor_id = models.CharField(max_length=255, blank=True)
    role = models.CharField(max_length=50, blank=True)
    attributed_to = models.CharField(max_length=50, blank=True)
    memory_type = models.CharField(max_length=50, blank=True)
    metadata = models.JSONField(default=dict)
    categories = models.JSONField(default=list)
    # Provenance, promoted from the metadata where it is valid.
    source = models.CharField(max_length=100, blank=True)
    confidence = models.CharField(
        max_length=10, choices=Confidence.choices, default=Confidence.UNKNOWN
    )
    review_status = models.CharField(
        max_length=10, choices=ReviewStatus.choices, default=ReviewStatus.UNREVIEWED
    )
    reviewed_by = models.CharField(max_length=255, blank=True)
    reviewed_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    # The last day (UTC) on which the memory holds.
    expiration_date = models.DateField(null=True)
    # SHA-256 of the case-folded text with white space collapsed: of the text itself, or of what was
    # said, where that is not to be stored twice (adding.add_memories, dedup).
    fingerprint = models.CharField(max_length=64)
    # Which add made it and the place in it; `session` names the conversation, if there is one.
    batch_id = models.UUIDField(null=True)
    seq = models.PositiveIntegerField(default=0)
    session = models.CharField(max_length=32, blank=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    rev = models.BigIntegerField(default=1)
    indexed_rev = models.BigIntegerField(default=0)
    deleted_at = models.DateTimeField(null=True)
    # Until when a worker has this row for itself, of several that work off what is pending.
    claimed_until = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            # Pages, counts and facets are read from these four alone: they hold every column that
            # the browser filters by.
            models.Index(
                fields=["project", "created_at", "id", *FACET_FIELDS, *EXPIRY_FIELDS],
                name="memory_newest",
                condition=LIVE,
            ),
            models.Index(
                fields=["project", *FACET_FIELDS, *EXPIRY_FIELDS, "created_at"],
                name="memory_facets",
                condition=LIVE,
            ),
            models.Index(
                fields=[
                    *("project", "user_id", "created_at", "id"),
                    *(name for name in FACET_FIELDS if name != "user_id"),
                    *EXPIRY_FIELDS,
                ],
                name="memory_user",
                condition=LIVE,
            ),
            models.Index(
                fields=["project", "updated_at", "id", *FACET_FIELDS, *EXPIRY_FIELDS],
                name="memory_updated",
                condition=LIVE,
            ),
            models.Index(
                fields=["project", "review_status", "created_at", "id"], name="memory_review"
            ),
            # SQLite uses a partial index only where a query repeats its condition to the letter:
            # filters.sql and candidates do.
            models.Index(
                fields=["project", "agent_id", "created_at", "id"],
                name="memory_agent",
                condition=~Q(agent_id=""),
            ),
            models.Index(
                fields=["project", "app_id", "created_at", "id"],
                name="memory_app",
                condition=~Q(app_id=""),
            ),
            models.Index(
                fields=["project", "run_id", "created_at", "id"],
                name="memory_run",
                condition=~Q(run_id=""),
            ),
            models.Index(
                fields=["session", "created_at", "seq", "id"],
                name="memory_session",
                condition=~Q(session=""),
            ),
            models.Index(fields=["project", "fingerprint", "user_id"], name="memory_fingerprint"),
            models.Index(
                fields=["expires_at"], name="memory_expiry", condition=Q(expires_at__isnull=False)
            ),
            models.Index(
                fields=["deleted_at"], name="memory_deleted", condition=Q(deleted_at__isnull=False)
            ),
            # Who owns how many, and when one of them last changed: narrow, for all of it is read.
            *(
                models.Index(
                    fields=["project", name, "updated_at"],
                    name=f"memory_{name.removesuffix('_id')}s",
                    condition=LIVE & ~Q(**{name: ""}),
                )
                for name in ENTITY_FIELDS
            ),
            # The outbox: only what the index has not seen.
            models.Index(
                fields=["id"], name="memory_pending", condition=Q(rev__gt=F("indexed_rev"))
            ),
        )

    def __str__(self) -> str:
        return str(self.id)


def _project_of_memory() -> "models.ForeignKey[Project | None, Project | None]":
    """The project of a row's memory, in large tables that got this column later.

    Null only in rows from before, until the job of backfill.columns has reached them: NOT NULL
    would rewrite the whole table on SQLite. Nothing checks or follows the reference: the row lives
    and dies with its memory, whose own reference is checked, and the column costs an add nothing.
    """
    return models.ForeignKey(
        "accounts.Project",
        models.DO_NOTHING,
        null=True,
        db_index=False,
        db_constraint=False,
        related_name="+",
    )


class MemoryVector(models.Model):
    """The dense vector of a memory: `dims` little-endian float32, a unit vector.

    `model_key` names embedder and version; vectors of different models are never compared. A memory
    has one vector of the model in use, and a second one while, and after, another takes its place.
    """

    memory = models.ForeignKey(Memory, models.CASCADE, db_index=False, related_name="vectors")
    project = _project_of_memory()
    model_key = models.CharField(max_length=200)
    dims = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["memory", "model_key"], name="one_vector_per_model"),
        )

    def __str__(self) -> str:
        return f"{self.memory_id} {self.model_key}"


class MemoryTokens(models.Model):
    """The states of a memory's tokens, compressed (token_states.pack): about 2 KB, from which the
    text can be read.

    `states_key` names model, projection and version; states of another key are made anew.
    `text_sum` (token_states.text_sum) tells the text that they were read from: others are never
    compared, and made anew. None where nobody knows yet, as of before there was the column.
    """

    memory = models.OneToOneField(
        Memory, models.CASCADE, primary_key=True, related_name="token_states"
    )
    project = _project_of_memory()
    states_key = models.CharField(max_length=100)
    data = models.BinaryField()
    text_sum = models.BigIntegerField(null=True)

    def __str__(self) -> str:
        return f"{self.memory_id} {self.states_key}"


class MemoryRetrieval(models.Model):
    """How often, and when last, a search gave the memory to an agent; no row for never.

    Apart from the memory's row, for a search changes nothing of the memory: not its `updated_at`,
    not its `rev`, and so not the index. See memories.retrievals.
    """

    memory = models.OneToOneField(
        Memory, models.CASCADE, primary_key=True, related_name="retrieval"
    )
    project = models.ForeignKey(
        "accounts.Project",
        models.DO_NOTHING,
        db_index=False,
        db_constraint=False,
        related_name="+",
    )
    count = models.PositiveBigIntegerField()
    last_at = models.DateTimeField()

    class Meta:
        indexes = (
            # The browser reads its pages from these, and looks the memories up.
            models.Index(fields=["project", "count", "last_at", "memory"], name="retrieval_most"),
            models.Index(fields=["project", "last_at", "memory"], name="retrieval_last"),
        )

    def __str__(self) -> str:
        return f"{self.memory_id} {self.count}"
