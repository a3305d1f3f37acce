"""Calls the model providers and the local model. No other room knows mem0."""
