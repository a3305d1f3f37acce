"""Shared by the REST dialects: strict JSON, bodies and their errors, the base of the views."""
