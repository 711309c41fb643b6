"""Several processes that train one model. Nothing else uses torch.distributed."""
