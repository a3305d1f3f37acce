"""The product's settings, with the server that the conformance suite expects behind /mcp."""

from mem0dash.settings import *  # noqa: F403

MCP_SERVER = "prove.everything.build"
