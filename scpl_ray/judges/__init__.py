"""Classifiers that recognise kinds of text, and cards that report their errors."""
