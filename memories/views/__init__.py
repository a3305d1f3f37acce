"""Pages: each view parses, calls a service or a query, and renders."""
