"""Chooses, tries and changes the model providers, and moves memories to another model."""
