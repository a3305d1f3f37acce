"""The long proofs: the real server, driven over HTTP, killed, cut off from all, freshly cloned."""
