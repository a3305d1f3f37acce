"""The product's settings, with a lease of adds that a proof can wait for."""

from mem0dash.settings import *  # noqa: F403

CLAIM_LEASE_SECONDS = 10
