"""Makes the vectors and token states that memories still lack."""
