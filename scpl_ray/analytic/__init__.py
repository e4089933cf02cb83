"""The loop without a language model: simulation by counts, closed forms, and a fit to runs."""
