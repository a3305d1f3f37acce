"""Django's SQLite backend for many writing threads: fair turns, and no stray cursors."""
