"""Routes of the request log and of monitoring."""

from django.urls import path

from operations import api, monitoring, pages

urlpatterns = [
    path("healthz", monitoring.HealthView.as_view(), name="healthz"),
    path("metrics", monitoring.MetricsView.as_view(), name="metrics"),
    path("requests", api.RequestsView.as_view(), name="requests"),
    path("dashboard/requests", pages.requests_page, name="requests-page"),
]
