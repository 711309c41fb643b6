"""What a Vision Transformer costs and what it does."""
