"""Fills an empty project with sample data, and removes it again."""
