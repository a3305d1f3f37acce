"""Who is signed in to the pages."""

from typing import Any

from django.test import Client

from accounts.models import Account, Membership, Role


def sign_in(account: Account, role: Role | None = None, **options: Any) -> Client:
    """The client of the account, which has `role` in its project from now on; `options` are those
    of Client."""
    if role is not None:
        Membership.objects.filter(account=account).update(role=role)
    client = Client(**options)
    client.force_login(account)
    return client
