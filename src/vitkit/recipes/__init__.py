"""Training jobs: what to do with which data and model, each with the evidence for its numbers."""
