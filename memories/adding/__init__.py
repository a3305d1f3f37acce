"""Adds memories: word for word or extracted by an LLM, once for each request."""
