"""The pages and endpoints of the app."""
