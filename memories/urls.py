"""Routes of the memory pages."""

from django.urls import path

from memories.views import activity, add, edit, entities
from memories.views.browser import browse, filters, inspector, saved
from memories.views.bulk import operations
from memories.views.bulk import plan as bulk

app_name = "memories"
MEMORY = "dashboard/memories/<uuid:memory_id>"
OPERATION = "dashboard/operations/<uuid:operation_id>"
urlpatterns = [
    path("dashboard/activity", activity.activity, name="activity"),
    path("dashboard/activity/export", activity.activity_export, name="activity-export"),
    path("dashboard/memories", browse.browse, name="browse"),
    path("dashboard/memories/filters", filters.filters, name="filters"),
    path("dashboard/memories/export", browse.export, name="memories-export"),
    path("dashboard/memories/add", add.add, name="memory-add"),
    path(f"{MEMORY}/edit", edit.edit, name="memory-edit"),
    path(f"{MEMORY}/delete", inspector.delete, name="memory-delete"),
    path(f"{MEMORY}/restore", inspector.restore, name="memory-restore"),
    path(f"{MEMORY}/review", inspector.review, name="memory-review"),
    path(f"{MEMORY}/confidence", inspector.confidence, name="memory-confidence"),
    path(f"{MEMORY}/expiry", inspector.expiry, name="memory-expiry"),
    path(f"{MEMORY}/undo/<int:revision_id>", inspector.undo, name="memory-undo"),
    path("dashboard/memories/views", saved.views, name="views"),
    path("dashboard/memories/views/save", saved.save, name="view-save"),
    path("dashboard/memories/views/<int:view_id>/rename", saved.rename, name="view-rename"),
    path("dashboard/memories/views/<int:view_id>/delete", saved.delete, name="view-delete"),
    path("dashboard/memories/bulk", bulk.plan, name="bulk-plan"),
    path("dashboard/memories/bulk/run", bulk.run, name="bulk-run"),
    path("dashboard/operations", operations.operations, name="operations"),
    path(OPERATION, operations.operation, name="operation"),
    path(f"{OPERATION}/undo", operations.operation_undo, name="operation-undo"),
    path(f"{OPERATION}/cancel", operations.operation_cancel, name="operation-cancel"),
    path("dashboard/entities", entities.entities, name="entities"),
    path("dashboard/entities/delete", bulk.entity_delete, name="entity-delete"),
]
