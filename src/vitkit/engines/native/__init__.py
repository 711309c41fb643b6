"""A transformer block in C, compiled on the machine that runs it: an extra. PyTorch's operators compute the same without it."""
