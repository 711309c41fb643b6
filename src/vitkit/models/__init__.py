"""The method itself: one readable Vision Transformer and its position embeddings."""
