"""Sample data for an empty project, and the way to be rid of it again.

What belongs to it is told by the history, where the ADD of each memory is signed: nobody can change
that, while the mark in the metadata, which people and filters see, can be edited away, or be given
to a memory of one's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from accounts.models import Project
from core.errors import ConflictError
from core.principal import Principal
from jobs import leases
from memories import runtime
from memories.backfill.vectors import EMBED_BATCH
from memories.demo.rows import sample_adds
from memories.engine.engine import Engine
from memories.index.opening import open_indexer
from memories.models import AddInput, Memory, MemoryRetrieval, MemoryTokens, MemoryVector, Revision
from memories.models.server import INDEX_BUILD, IndexState
from memories.readings import Reading
from memories.storage import revisions
from memories.storage import rows as records

# The request id that its history and its inputs carry: with a space in it, which none has that came
# over the network.
SIGNATURE: Final = "manage.py demo"
# When the rows count as deleted that only wait for the index to let go of them: so long ago that a
# purge takes them too.
EMPTIED_AT: Final = datetime(1970, 1, 1, tzinfo=UTC)


def fill_project(principal: Principal) -> int:
    """Fills an empty project with the sample data, all of it or nothing; how many memories.

    Scope `admin`. ConflictError when the project holds a memory already, be it one in the bin that
    can be restored, or while the shared index is rebuilt; ProviderError when the embedder fails.
    Without an embedder vectors are made once there is one, as after adds.
    """
    principal.require_project("the sample data")
    _insist_on_empty(principal)
    adds = sample_adds(replace(principal, via="internal", request_id=SIGNATURE), timezone.now())
    memories = [memory for add in adds for memory in add.memories]
    engine = runtime.get_runtime().engine
    readings = _read(memories, engine)
    with _between_builds():
        # One at a time: a second one waits here, and then finds it filled.
        Project.objects.select_for_update().get(id=principal.project.id)
        _insist_on_empty(principal)
        AddInput.objects.bulk_create(add.kept for add in adds if add.kept is not None)
        Memory.objects.bulk_create(memories)
        records.insert_readings(memories, readings, engine.model_key, engine.states_key)
        entries = [entry for add in adds for entry in add.revisions]
        revisions.record(entries, are_news=False)
    runtime.get_runtime().apply(memories)
    return len(memories)


def _read(memories: Sequence[Memory], engine: Engine) -> list[Reading]:
    texts = [records.text_to_embed(memory) for memory in memories]
    readings: list[Reading] = []
    for at in range(0, len(texts), EMBED_BATCH):
        readings += engine.read(texts[at : at + EMBED_BATCH])
    return readings


def _insist_on_empty(principal: Principal) -> None:
    slug = principal.project.slug
    # What was erased has left an empty row, which cannot be restored.
    there = Memory.objects.filter(project_id=principal.project.id).exclude(text="")
    count = there.count()
    if not count:
        return
    if there.filter(id__in=_signed(principal)).exists():
        raise ConflictError(
            f"The sample data is in project {slug!r} already; demo --remove takes it away."
        )
    in_bin = there.exclude(deleted_at=None).count()
    deleted = f", {in_bin:,} of them deleted, which can still be restored" if in_bin else ""
    memories = f"{count:,} {'memory' if count == 1 else 'memories'}{deleted}"
    raise ConflictError(
        f"Project {slug!r} holds {memories}: sample data goes into an empty project."
    )


def _signed(principal: Principal) -> QuerySet[Revision, UUID]:
    """The ids of the project's sample memories, also of those that were purged since."""
    signed = Revision.objects.filter(
        project_id=principal.project.id, event="ADD", via="internal", request_id=SIGNATURE
    )
    return signed.values_list("memory_id", flat=True)


@contextmanager
def _between_builds() -> Iterator[None]:
    """A transaction during which nobody builds the shared index: a build learns from the times in
    the history what changed meanwhile, and the sample data's history is dated back, or gone."""
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(leases.hold(INDEX_BUILD))
        except ConflictError as error:
            raise ConflictError(
                "The search index is being built anew; try again when that is done."
            ) from error
        stack.enter_context(transaction.atomic())
        lease.lock()
        yield


def remove_demo(principal: Principal) -> int:
    """Removes the project's sample memories for good, edited and deleted ones as well, with
    vectors, history and inputs; how many they were. Scope `admin`.

    Nothing else goes, whatever it says of itself. Empty rows stay until `drop_emptied`.
    ConflictError while the shared index is rebuilt; then nothing has changed.
    """
    principal.require_project("the sample data")
    with _between_builds():
        ids = list(_signed(principal))
        rows = list(
            Memory.objects.select_for_update().filter(project_id=principal.project.id, id__in=ids)
        )
        for model in (MemoryVector, MemoryTokens, MemoryRetrieval):
            model.objects.filter(memory__in=rows).delete()
        Revision.objects.filter(project_id=principal.project.id, memory_id__in=ids).delete()
        # Claims go with them. The inputs of other adds stay, and with them the messages that the
        # extraction remembers: these are of somebody else's adds for the same user.
        AddInput.objects.filter(
            project_id=principal.project.id, request_id=SIGNATURE, key_id=None
        ).delete()
        _empty(rows)
        if rows:
            audit.record(
                AuditAction.DEMO_REMOVED,
                actor=principal.actor,
                project_id=principal.project.id,
                target=AuditTarget("project", principal.project.id, principal.project.slug),
                details={"memories": len(rows)},
            )
    runtime.get_runtime().apply(rows)
    return len(rows)


def _empty(rows: Sequence[Memory]) -> None:
    """Leaves of the rows what the index needs to let go of them."""
    texts = (
        *("text", "text_fold", "fingerprint", "session", "source", "agent_id", "app_id", "run_id"),
        *("actor_id", "role", "attributed_to", "memory_type", "reviewed_by"),
    )
    Memory.objects.filter(id__in=[row.id for row in rows]).update(
        **dict.fromkeys(texts, ""),
        # A purge takes the remembered messages of the same user with a memory: of nobody's here.
        user_id=SIGNATURE,
        metadata={},
        categories=[],
        batch_id=None,
        deleted_at=EMPTIED_AT,
        updated_at=timezone.now(),
        rev=F("rev") + 1,
    )


def _emptied(principal: Principal) -> QuerySet[Memory]:
    return Memory.objects.filter(project_id=principal.project.id, deleted_at=EMPTIED_AT, text="")


def drop_emptied(principal: Principal) -> int:
    """Drops the rows that the index has let go of; how many it has not yet. Scope `admin`.

    What is left is purged by the server in its time.
    """
    principal.require_project("the sample data")
    rows = _emptied(principal)
    if IndexState.objects.exists():
        rows = rows.filter(indexed_rev=F("rev"))
    rows.delete()
    return _emptied(principal).count()


def drop_from_index(principal: Principal) -> None:
    """Takes what `remove_demo` has emptied out of the index, in a process that has none open.

    Scope `admin`. IndexUnavailableError when it cannot be opened, as while a server has the
    embedded one: then that server does the same.
    """
    principal.require_project("the sample data")
    state = IndexState.objects.first()
    ids = list(_emptied(principal).values_list("id", flat=True))
    if state is None or not ids:
        return
    indexer = open_indexer(state.model_key, state.dims)
    try:
        indexer.apply(ids)
    finally:
        indexer.close()
