"""The dialects of the HTTP API: each parses, calls a service or query, and renders."""
