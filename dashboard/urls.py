"""Routes of the dashboard."""

from django.urls import path

from dashboard import views
from dashboard.connect import views as connect
from memories.views import settings as settings_page

app_name = "dashboard"
urlpatterns = [
    path("dashboard", views.overview, name="overview"),
    path("dashboard/connect", connect.connect, name="connect"),
    path("dashboard/connect/copied", connect.copied, name="connect-copied"),
    path("llms.txt", connect.llms, name="llms"),
    path("claude-code", connect.marketplace, name="claude-code"),
    path("claude-code/install.sh", connect.install_script, name="claude-code-install"),
    path("claude-code/mem0dash.git/info/refs", connect.git_refs, name="claude-code-refs"),
    path("claude-code/mem0dash.git/git-upload-pack", connect.git_pack, name="claude-code-pack"),
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
