"""A model as the graph of another runtime's format: written here, run elsewhere."""
