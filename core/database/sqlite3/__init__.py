"""Django's SQLite backend, for many threads that write: fair turns, and no cursor that lives on."""
