"""What templates load: `ui`."""
