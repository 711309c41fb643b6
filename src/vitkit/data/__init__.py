"""From what the user has on disk to batches of pixels."""
