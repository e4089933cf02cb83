"""The loop without a language model: exact counts, closed forms, and its fit to a run."""
