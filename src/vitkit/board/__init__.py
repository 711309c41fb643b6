"""The results board: published values with their sources, our own results beside them, and the static site."""
