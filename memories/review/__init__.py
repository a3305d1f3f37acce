"""Sets the review status, confidence and expiry of one memory."""
