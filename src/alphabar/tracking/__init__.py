"""Copies of a run's record in trackers: Weights & Biases, TensorBoard, MLflow, trackio, or a custom one. See docs/tracking.md."""
