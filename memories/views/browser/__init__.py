"""The page that lists memories beside the one that is open."""
