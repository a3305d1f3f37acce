"""Finds memories by meaning and by words, and ranks them."""
