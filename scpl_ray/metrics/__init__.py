"""What is measured each round: preference bias, disparate bias, quality, diversity, and the null of pure chance."""
