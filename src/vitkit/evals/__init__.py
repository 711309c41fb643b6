"""Numbers about a model: metrics with intervals, the linear probe, calibration."""
