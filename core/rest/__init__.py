"""What the REST dialects share: strict JSON, bodies and their errors, the base of the views."""
