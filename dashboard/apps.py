"""The dashboard's frame and its overview."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    name = "dashboard"
