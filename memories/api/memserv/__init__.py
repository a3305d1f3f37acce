"""The dialect of mem0-server."""
