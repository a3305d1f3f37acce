"""Decides about one memory: its review status, confidence and expiry."""
