"""Training data, losses, metrics and the training module."""
