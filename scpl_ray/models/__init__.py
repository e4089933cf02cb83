"""Language models on disk and in memory: where they come from, tokens, templates, adapters, likelihoods."""
