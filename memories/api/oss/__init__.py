"""The dialect of mem0's open-source server."""
