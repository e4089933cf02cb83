"""Engines that write completions behind one interface, and their registry."""
