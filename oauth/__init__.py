"""The OAuth 2.1 provider: apps that act for an account, with the scopes that the person granted."""
