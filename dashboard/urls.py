"""Routes of the dashboard."""

from django.urls import path

from dashboard import views
from memories.views import settings as settings_page

app_name = "dashboard"
urlpatterns = [
    path("dashboard", views.overview, name="overview"),
    path("dashboard/theme", views.theme, name="theme"),
    path("dashboard/settings", settings_page.settings_page, name="settings"),
    path("dashboard/settings/time-zone", settings_page.time_zone, name="time-zone"),
    path("dashboard/settings/late-interaction", settings_page.switch, name="late-interaction"),
    path(
        "dashboard/settings/late-interaction/remove",
        settings_page.remove,
        name="late-interaction-remove",
    ),
]
