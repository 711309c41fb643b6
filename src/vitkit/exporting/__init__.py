"""Proving an exported artefact: on which images, by which figures, and what they must be."""
