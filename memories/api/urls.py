"""Routes of the dialects. No trailing slash: clients of the OSS dialect do not follow redirects.
Those that do are sent on (core.http.middleware.not_found)."""

from django.urls import path

from memories.api.memserv import views as memserv
from memories.api.oss import configure
from memories.api.oss import views as oss

urlpatterns = [
    path("memories", oss.MemoriesView.as_view(), name="oss-memories"),
    path("memories/<str:memory_id>", oss.MemoryView.as_view(), name="oss-memory"),
    path("memories/<str:memory_id>/history", oss.HistoryView.as_view(), name="oss-history"),
    path("search", oss.SearchView.as_view(), name="oss-search"),
    path("api/v1/memories", memserv.MemoriesView.as_view(), name="memserv-memories"),
    path("api/v1/memories/search", memserv.SearchView.as_view(), name="memserv-search"),
    path("api/v1/memories/delete_bulk", memserv.DeleteBulkView.as_view(), name="memserv-bulk"),
    path("api/v1/memories/<str:memory_id>", memserv.MemoryView.as_view(), name="memserv-memory"),
    path(
        "api/v1/memories/<str:memory_id>/history",
        memserv.HistoryView.as_view(),
        name="memserv-history",
    ),
    path("api/v1/memories/", memserv.without_slash, name="memserv-slash"),
    path("api/v1/memories/<path:rest>/", memserv.without_slash, name="memserv-slash-below"),
    path("entities", oss.EntitiesView.as_view(), name="oss-entities"),
    path(
        "entities/<str:entity_type>/<path:entity_id>", oss.EntityView.as_view(), name="oss-entity"
    ),
    path("configure", configure.ConfigureView.as_view(), name="oss-configure"),
    path("configure/providers", configure.ProvidersView.as_view(), name="oss-providers"),
    path(
        "generate-instructions",
        configure.GenerateInstructionsView.as_view(),
        name="oss-generate-instructions",
    ),
    path("reset", configure.ResetView.as_view(), name="oss-reset"),
]
