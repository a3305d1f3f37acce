"""Reads for people: the list with its filters, one memory, entities, activity, export."""
