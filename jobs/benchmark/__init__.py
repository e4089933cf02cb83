"""Measurements of speed, and comparison with its limits."""
