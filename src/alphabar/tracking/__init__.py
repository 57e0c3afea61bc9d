"""What a run tells trackers: Weights & Biases, TensorBoard, MLflow, trackio, or one of your own. See docs/tracking.md."""
