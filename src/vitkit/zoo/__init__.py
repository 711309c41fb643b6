"""Published checkpoints as rows, and loading a model from whatever the user names."""
