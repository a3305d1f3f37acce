"""The frame of all pages, and the overview: what is stored, what failed, how the server is."""
