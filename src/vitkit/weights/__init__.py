"""Weights in files: every published container, opened header first and without running anything; and tensors into a model."""
