"""Django's PostgreSQL backend with bounded waits for locks and nothing that outlives a
transaction."""
