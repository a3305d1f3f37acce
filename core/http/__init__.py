"""Requests before any view sees them: bounds, addresses, hosts, credentials, threads."""
