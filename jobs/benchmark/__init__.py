"""Speed, measured beside its limits."""
