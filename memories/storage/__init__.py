"""Writes rows, and reads them in SQL where the ORM is too slow."""
