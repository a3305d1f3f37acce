"""Changes many memories: shows first what would change, then does exactly that."""
