"""The rebuildable search index. No other room knows Qdrant."""
