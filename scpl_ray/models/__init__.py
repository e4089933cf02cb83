"""Language models on disk and in memory: their sources, tokens, chat templates, adapters and likelihoods."""
