"""Training: objectives, batches, the DeepSpeed worker, reward models and classifiers."""
