"""The mouth for agents: memories as the tools, prompts and resources of MCP."""
