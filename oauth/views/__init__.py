"""What clients and people call: the endpoints of OAuth and their pages."""
