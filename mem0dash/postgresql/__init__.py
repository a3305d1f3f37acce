"""Django's PostgreSQL backend, whose statements wait a bounded time for the locks of others."""
