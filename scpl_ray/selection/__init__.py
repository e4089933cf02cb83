"""The training data of a round: candidates, selection strategies, preference pairs, data cycles and examples."""
