"""A model's own tensors in the forms that PyTorch's operators compute fastest, in fp32, bf16 and 8 bits."""
