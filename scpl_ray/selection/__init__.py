"""What a round trains on: candidates, strategies, pairs, data cycles, examples."""
