"""Routes of API keys."""

from django.urls import path

from apikeys import api

urlpatterns = [
    path("api-keys", api.ApiKeysView.as_view(), name="api-keys"),
    path("api-keys/<str:key_id>", api.ApiKeyView.as_view(), name="api-key"),
]
