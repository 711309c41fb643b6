"""How a model runs here: device, precision and batching of inference. Results are the model's, whatever the engine."""
