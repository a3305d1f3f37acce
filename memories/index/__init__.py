"""The rebuildable vector index: the only room that knows Qdrant."""
