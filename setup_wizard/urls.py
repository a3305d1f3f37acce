"""Routes of the set-up wizard."""

from django.urls import path

from setup_wizard.administrator import administrator, start
from setup_wizard.first_key import first_key
from setup_wizard.provider import provider
from setup_wizard.trial import finish, trial
from setup_wizard.use_case import use_case

app_name = "setup"
urlpatterns = [
    path("setup", start, name="start"),
    path("setup/administrator", administrator, name="administrator"),
    path("setup/provider", provider, name="provider"),
    path("setup/key", first_key, name="key"),
    path("setup/use-case", use_case, name="use-case"),
    path("setup/test", trial, name="test"),
    path("setup/finish", finish, name="finish"),
]
