"""The training loop, its optimiser and its checkpoints; no Ray, no MLflow."""
