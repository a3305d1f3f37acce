"""The template tags: `ui`."""
