"""The parts of a run from a recipe."""
