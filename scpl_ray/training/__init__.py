"""How weights change: objectives, batches, the DeepSpeed worker, reward models and classifiers."""
