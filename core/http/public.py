"""The address under which this server is reached."""

from django.conf import settings
from django.http import HttpRequest


def base_url(request: HttpRequest) -> str:
    """PUBLIC_URL, or what the request came by: its host has been checked. No slash at the end."""
    return settings.PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")


def is_public() -> bool:
    """Whether services in the cloud can reach this server: they need HTTPS and a public name."""
    return bool(settings.PUBLIC_URL.startswith("https://"))
