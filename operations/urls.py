"""Routes of the request log."""

from django.urls import path

from operations import api

urlpatterns = [path("requests", api.RequestsView.as_view(), name="requests")]
