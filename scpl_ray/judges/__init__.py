"""Classifiers that tell kinds of text, and cards of their errors."""
