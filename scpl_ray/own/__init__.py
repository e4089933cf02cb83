"""Code of the user's own: how a config names it, how it is imported, what of it is shipped to workers and kept."""
