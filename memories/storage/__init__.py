"""Writes rows, and reads them where the ORM would be too slow."""
