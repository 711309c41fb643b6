"""What one training step minimises. One file per objective."""
