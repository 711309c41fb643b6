"""The parts of `vit audit` that need more than the data: label errors, the facts of the page, its pictures."""
