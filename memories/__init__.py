"""The memories of a project: how they come in, change, are found, and are kept."""
