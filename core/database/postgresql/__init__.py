"""Django's PostgreSQL backend: waits for locks are bounded, and nothing outlives a transaction."""
