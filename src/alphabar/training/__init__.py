"""Training: the loss, the loop and its hooks, averages of weights, checkpoints."""
