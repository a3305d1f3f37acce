"""Calls the model providers and the local model: the only room that knows mem0."""
