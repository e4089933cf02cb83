"""Engines that write completions behind one face, and the registry of them."""
